"""Rankings: equal to RecTools, ranx, scikit-learn and a slow version; ties, seen items and bad input."""

import json
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score

from seqbook.evaluation.metrics import EvaluationError, compare_means, mean_metrics
from seqbook.evaluation.ranking import (
    compare_lists,
    compare_rankings,
    coverage,
    exposure_gini,
    gap_errors,
    list_diversity,
    list_metrics,
    list_novelty,
    list_popularity,
    list_serendipity,
    perplexity,
    ranking_metrics,
    sampled_ranks,
    score_ranks,
    user_auc,
)

VALUES = Path(__file__).with_name("rectools_values.json")
RANX = {
    "hit": "hit_rate",
    "precision": "precision",
    "recall": "recall",
    "ndcg": "ndcg",
    "mrr": "mrr",
    "map": "map",
}


@st.composite
def cases(draw):
    """Lists of different lengths, and what was taken: both may be empty; k may be larger than any list."""
    n_items, k = draw(st.integers(1, 12)), draw(st.integers(1, 15))
    some = st.lists(st.integers(0, n_items - 1), unique=True, max_size=n_items)
    users = draw(st.lists(st.tuples(some, some), min_size=1, max_size=6))
    return [list(lists) for lists in zip(*users, strict=True)] + [k]


def slow(shown, wanted, k):
    """The metrics of one list, as they are defined."""
    hits = [item in wanted for item in shown[:k]]
    found = sum(hits)
    gain = sum(hit / np.log2(j + 2) for j, hit in enumerate(hits))
    best = sum(1 / np.log2(j + 2) for j in range(min(k, len(wanted))))
    upto = sum(hit * sum(hits[: j + 1]) / (j + 1) for j, hit in enumerate(hits))
    first = 1 / (hits.index(True) + 1) if found else 0
    return [found > 0, found / k, found / len(wanted), gain / best, first, upto / len(wanted)]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_lists_agree_with_a_slow_version(case):
    recommended, relevant, k = case
    table = list_metrics(recommended, relevant, k)
    for row, shown, wanted in zip(table.to_numpy(), recommended, relevant, strict=True):
        expected = slow(shown, wanted, k) if wanted else [np.nan] * 6
        np.testing.assert_allclose(row, np.array(expected, float), atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_lists_agree_with_ranx(case):
    ranx = pytest.importorskip("ranx")
    recommended, relevant, k = case
    users = [u for u in range(len(relevant)) if relevant[u] and recommended[u]]
    if not users:
        return
    runs = {str(u): {str(item): 99.0 - j for j, item in enumerate(recommended[u])} for u in users}
    truth = ranx.Qrels({str(u): {str(item): 1 for item in relevant[u]} for u in users})
    theirs = ranx.evaluate(
        truth, ranx.Run(runs), [f"{name}@{k}" for name in RANX.values()], return_mean=False
    )
    ours = list_metrics(recommended, relevant, k)
    for name, other in RANX.items():
        np.testing.assert_allclose(ours[f"{name}@{k}"].to_numpy()[users], theirs[f"{other}@{k}"], atol=1e-9)


def test_lists_agree_with_rectools():
    for case in json.loads(VALUES.read_text()):
        k, lists, theirs = case["k"], case["recommended"], case["values"]
        ours = list_metrics(lists, case["relevant"], k)
        for name in RANX:
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs[name], atol=1e-9)


def test_what_is_beyond_accuracy_agrees_with_rectools():
    for case in json.loads(VALUES.read_text()):
        k, lists, theirs = case["k"], case["recommended"], case["values"]
        past, items = pd.DataFrame(case["past"], columns=["user", "item"]), range(case["n_items"])
        counts, n_users = past["item"].value_counts(), past["user"].nunique()
        found = {
            "popularity": list_popularity(lists, counts, k),
            "novelty": list_novelty(lists, counts, n_users, k),
            "diversity": np.nan_to_num(list_diversity(lists, pd.DataFrame(case["features"], items), k)),
            "serendipity": list_serendipity(lists, case["relevant"], counts, len(items), k),
        }
        for name, values in found.items():
            np.testing.assert_allclose(values, theirs[name], atol=1e-9, err_msg=name)
        assert coverage(lists, items, k) == pytest.approx(theirs["coverage"], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms())
def test_order_of_users_names_of_items_and_doubles_play_no_part(case, random):
    recommended, relevant, k = case
    table = list_metrics(recommended, relevant, k)
    order = random.sample(range(len(relevant)), len(relevant))
    moved = list_metrics([recommended[u] for u in order], [relevant[u] for u in order], k)
    pd.testing.assert_frame_equal(moved, table.iloc[order].reset_index(drop=True))
    named = [[[f"item {i}" for i in row] for row in lists] for lists in (recommended, relevant)]
    pd.testing.assert_frame_equal(list_metrics(*named, k), table)
    pd.testing.assert_frame_equal(list_metrics(recommended, [row + row for row in relevant], k), table)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_an_empty_place_is_a_miss_and_cut_lists_lose_nothing(case):
    recommended, relevant, k = case
    table = list_metrics(recommended, relevant, k)
    width = max(k, max(map(len, recommended)))
    padded = np.array([row + [None] * (width - len(row)) for row in recommended], dtype=object)
    pd.testing.assert_frame_equal(list_metrics(padded, relevant, k), table)
    pd.testing.assert_frame_equal(list_metrics([row[:k] for row in recommended], relevant, k), table)


def test_users_without_relevant_items_are_left_out_or_count_nothing():
    lists, relevant = [["a"], ["b"], ["c"]], [["a"], [], ["x"]]
    left_out, counted = list_metrics(lists, relevant, 1), list_metrics(lists, relevant, 1, empty=0)
    assert mean_metrics(left_out)["hit@1"] == 1 / 2 and mean_metrics(counted)["hit@1"] == 1 / 3
    nobody = mean_metrics(list_metrics(lists, [[], [], []], 1))
    assert np.isnan(nobody["hit@1"]) and "no example has a value" in nobody.reasons["hit@1"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 30), st.just(np.inf)), min_size=1, max_size=20), st.integers(1, 40))
def test_ranks_agree_with_lists_of_one_relevant_item(ranks, k):
    lists = [[f"other {j}" for j in range(29)] for _ in ranks]
    for row, rank in zip(lists, ranks, strict=True):
        if rank < np.inf:
            row.insert(int(rank) - 1, "right")
    found = mean_metrics(list_metrics(lists, [["right"]] * len(ranks), k))
    for name, value in ranking_metrics(ranks, k).items():
        assert value == pytest.approx(found[name], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data())
def test_tied_scores_share_the_mean_of_their_places(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    orders = [
        order
        for order in permutations(range(len(scores)))
        if list(np.take(scores, order)) == sorted(scores)[::-1]
    ]
    mean = np.mean([order.index(target) + 1 for order in orders])
    assert score_ranks([scores], [target])[0] == pytest.approx(mean)


def test_excluded_items_take_no_place_but_the_target_stays():
    scores = np.random.default_rng(0).integers(6, size=(50, 20)) / 1.0
    exclude = np.random.default_rng(1).random((50, 20)) < 0.3
    targets = np.arange(50) % 20
    found = score_ranks(scores, targets, exclude)
    for row, target, out, rank in zip(scores, targets, exclude, found, strict=True):
        kept = [j for j in range(20) if j == target or not out[j]]
        assert rank == score_ranks([row[kept]], [kept.index(target)])[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]))
def test_the_auc_of_each_user_agrees_with_scikit_learn(n, seed, levels):
    rng = np.random.default_rng(seed)
    y, score, users = rng.integers(2, size=n), rng.integers(levels, size=n), rng.integers(6, size=n)
    table = user_auc(y, score, users)
    for user, row in table.iterrows():
        mine = users == user
        assert row["candidates"] == mine.sum() and row["relevant"] == y[mine].sum()
        if 0 < y[mine].sum() < mine.sum():
            assert row["auc"] == pytest.approx(roc_auc_score(y[mine], score[mine]), abs=1e-12)
        else:
            assert np.isnan(row["auc"])


@pytest.mark.parametrize(("rank", "n", "m"), [(1, 50, 10), (7, 50, 10), (50, 50, 10), (20, 1000, 100)])
def test_sampled_ranks_are_those_of_a_draw(rank, n, m):
    drawn = sampled_ranks(np.full(20_000, rank), n, m, seed=1)
    for k in (1, 3, 10):
        chance = hypergeom.cdf(k - 1, n - 1, rank - 1, m)
        assert abs((drawn <= k).mean() - chance) <= 4 * np.sqrt(chance * (1 - chance) / 20_000)


def test_the_limits_of_sampling():
    ranks = np.array([1, 5, 50, np.inf])
    np.testing.assert_array_equal(sampled_ranks(ranks, 50, 49), ranks)
    np.testing.assert_array_equal(sampled_ranks(ranks, 50, 0), [1, 1, 1, np.inf])
    np.testing.assert_array_equal(sampled_ranks(ranks, 60, 20, seed=3), sampled_ranks(ranks, 60, 20, seed=3))


def test_a_comparison_equals_that_of_the_means():
    rng = np.random.default_rng(0)
    ranks = {"a": rng.geometric(0.1, 300), "b": rng.geometric(0.2, 300)}
    table = compare_rankings(ranks, k=5, n_resamples=200, groups=np.arange(300) % 40)
    assert table.set_index(["model", "metric"])["verdict"]["b", "mrr@5"] == "better"
    lists = {name: [[None] * (r - 1) + ["x"] for r in found] for name, found in ranks.items()}
    other = compare_lists(lists, [["x"]] * 300, k=5, n_resamples=200, groups=np.arange(300) % 40)
    both = other[other["metric"].isin(table["metric"])].reset_index(drop=True)
    wanted = table.sort_values(["model", "metric"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(both.sort_values(["model", "metric"]).reset_index(drop=True), wanted)


def test_means_over_some_rows_are_resampled_over_these_rows():
    rng = np.random.default_rng(0)
    values = pd.DataFrame({"x": np.where(rng.random(400) < 0.5, rng.normal(size=400), np.nan)})
    row = compare_means({"m": values}, n_resamples=500).iloc[0]
    short = compare_means({"m": values.dropna()}, n_resamples=500).iloc[0]
    assert row["value"] == pytest.approx(short["value"])
    assert row["high"] - row["low"] == pytest.approx(short["high"] - short["low"], rel=0.15)


def test_a_gini_of_exposure():
    lists = [[0, 1], [0, 2], [0, 1]]
    shown = np.array([3, 2, 1, 0, 0])
    by_pairs = np.abs(shown[:, None] - shown).sum() / (2 * len(shown) * shown.sum())
    assert exposure_gini(lists, range(5), 2) == pytest.approx(by_pairs)


def test_what_is_empty_has_no_number():
    assert len(list_metrics([], [], 3)) == 0 and len(user_auc([], [], [])) == 0
    assert np.isnan(list_popularity([[]], {})[0]) and np.isnan(
        list_diversity([["a"]], pd.DataFrame({"x": [1]}, ["a"]))[0]
    )
    assert np.isnan(exposure_gini([[]], ["a"])) and coverage([[]], ["a"]) == 0
    assert np.isnan(perplexity([])) and len(gap_errors([], [])) == 0


def test_perplexity_and_times():
    rng = np.random.default_rng(0)
    p = rng.random(100)
    assert perplexity(np.log(p)) == pytest.approx(np.prod(p) ** (-1 / 100))
    double = perplexity(np.log(np.r_[p, p[:50]]))
    assert perplexity(np.log(p), np.r_[np.full(50, 2), np.ones(50)]) == pytest.approx(double)
    table = gap_errors([0, 10, 100], [0, 21, 50])
    assert table["within_2"].tolist() == [1, 0, 1] and table["gap_error"].tolist() == [0, 11, 50]
    assert table["log_gap_error"].iloc[1] == pytest.approx(np.log(2.1))
    seconds = rng.gamma(1, 100, size=300)
    told = compare_means({"good": gap_errors(seconds, seconds + 1), "bad": gap_errors(seconds, 9 * seconds)})
    assert (told.loc[told["model"] == "bad", "verdict"] == "worse").all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: list_metrics("ab", [["a"]]), "one list of ids"),
        (lambda: list_metrics([["a"]], [7]), "one list of ids"),
        (lambda: list_metrics([["a"]], [["a"], ["b"]]), "1 lists but 2"),
        (lambda: list_metrics([["a"], ["b", "c", "b"]], [["a"], ["b"]]), "list 1 shows 'b' twice"),
        (lambda: list_metrics([[1, 2]], [["1"]]), "same kind"),
        (lambda: list_metrics([["a"]], [["a"]], k=0), "at least 1"),
        (lambda: list_metrics([["a"]], [["a"]], k=1.5), "at least 1"),
        (lambda: compare_lists([["a"]], [["a"]]), "dict"),
        (lambda: compare_rankings({"a": [1], "b": [1, 2]}), "different"),
        (lambda: compare_rankings({"a": [0.5]}), "ranks of 'a'"),
        (lambda: ranking_metrics([1, np.nan]), "from 1 up"),
        (lambda: score_ranks([[1.0, np.nan]], [0]), "NaN"),
        (lambda: score_ranks([[1.0, 2.0]], [0, 1]), "one target"),
        (lambda: score_ranks([[1.0, 2.0]], [-1]), "no column of the 2 items"),
        (lambda: score_ranks([[1.0, 2.0]], [2]), "no column of the 2 items"),
        (lambda: user_auc([0, 1], [1, np.nan], [1, 1]), "none missing"),
        (lambda: user_auc([0, 1], [1, 2], [1, None]), "none missing"),
        (lambda: sampled_ranks([1, 9], 8, 3), "number of items"),
        (lambda: sampled_ranks([1, 2.5], 8, 3), "whole ranks"),
        (lambda: list_diversity([["a"]], pd.DataFrame({"x": [1]}, ["b"])), "no row for 'a'"),
        (lambda: perplexity([np.nan]), "none NaN"),
        (lambda: gap_errors([1, 2], [1]), "for each event"),
    ],
)
def test_bad_input_says_what_to_do(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()


def test_a_million_places_take_seconds():
    rng = np.random.default_rng(0)
    lists = rng.integers(0, 1000, (100_000, 10)) * 10 + np.arange(10)
    relevant = rng.integers(0, 10_000, (100_000, 3))
    start = time.process_time()
    table = list_metrics(lists, relevant)
    assert time.process_time() - start < 10 and table.notna().all(axis=None)
