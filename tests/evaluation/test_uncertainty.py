"""Intervals that cover, tests that agree with other libraries, conformal promises that are kept."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from mapie.regression import SplitConformalRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score

from seqbook.evaluation.metrics import EvaluationError, wilson_interval
from seqbook.evaluation.uncertainty import (
    bootstrap_interval,
    conformal_limit,
    correct_p_values,
    coverage_table,
    delong,
    mcnemar,
)


@st.composite
def scored(draw):
    """Labels of both kinds, two scores with many ties, and users with one row or several."""
    n, seed = draw(st.integers(4, 60)), draw(st.integers(0, 2**32 - 1))
    rng, levels = np.random.default_rng(seed), draw(st.sampled_from([2, 4, 1000]))
    y = rng.permutation(np.r_[[0, 0, 1, 1], rng.integers(2, size=n - 4)])
    scores = {name: (rng.integers(levels, size=n) + y) / 1.0 for name in "ab"}
    return y, scores, rng.integers(draw(st.sampled_from([3, 20, 10_000])), size=n)


def shares(y, score):
    """By pairs: for each positive the share of negatives below, for each negative that of positives above."""
    pairs = np.sign(score[y == 1][:, None] - score[y == 0]) / 2 + 0.5
    return pairs.mean(axis=1), pairs.mean(axis=0)


@settings(max_examples=100, deadline=None)
@given(scored())
def test_delong_agrees_with_its_definition_by_pairs(example):
    y, scores, _ = example
    (Va, Wa), (Vb, Wb) = (shares(y, score) for score in scores.values())
    table = delong(scores, y, confidence=0.9)
    for row, V, W in zip(table.itertuples(), (Va, Vb), (Wa, Wb), strict=True):
        assert row.auc == pytest.approx(roc_auc_score(y, scores[row.model]), abs=1e-12)
        half = 1.6448536 * np.sqrt(V.var(ddof=1) / len(V) + W.var(ddof=1) / len(W))
        assert row.high == pytest.approx(min(1, V.mean() + half), abs=1e-6)
        assert row.low == pytest.approx(max(0, V.mean() - half), abs=1e-6)
    error = np.sqrt((Vb - Va).var(ddof=1) / len(Va) + (Wb - Wa).var(ddof=1) / len(Wa))
    other = table.iloc[1]
    assert other["difference"] == pytest.approx(Vb.mean() - Va.mean(), abs=1e-12)
    assert other["difference_high"] - other["difference"] == pytest.approx(1.6448536 * error, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(scored())
def test_grouped_delong_agrees_with_obuchowskis_sums(example):
    y, scores, users = example
    groups = {u: users == u for u in np.unique(users)}
    with_yes, with_no = (sum((y[mine] == c).any() for mine in groups.values()) for c in (1, 0))
    if min(with_yes, with_no, len(groups)) < 2:
        return
    V, W = np.zeros(len(y)), np.zeros(len(y))
    V[y == 1], W[y == 0] = shares(y, scores["a"])
    auc, n1, n0 = V[y == 1].mean(), (y == 1).sum(), (y == 0).sum()
    up = np.array([(V - auc)[mine & (y == 1)].sum() for mine in groups.values()])
    down = np.array([(W - auc)[mine & (y == 0)].sum() for mine in groups.values()])
    s10 = with_yes / ((with_yes - 1) * n1) * (up**2).sum()
    s01 = with_no / ((with_no - 1) * n0) * (down**2).sum()
    s11 = len(groups) / (len(groups) - 1) * (up * down).sum()
    variance = s10 / n1 + s01 / n0 + 2 * s11 / (n1 * n0)
    row = delong({"a": scores["a"]}, y, groups=users).iloc[0]
    if variance > 1e-12 and row["low"] > 0:
        assert row["auc"] - row["low"] == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_users_with_one_row_are_rows_and_scale_plays_no_part():
    rng = np.random.default_rng(0)
    y, score = rng.integers(2, size=300), rng.normal(size=300)
    plain = delong({"a": score, "b": score**3}, y)
    pd.testing.assert_frame_equal(delong({"a": score, "b": score**3}, y, groups=rng.permutation(300)), plain)
    pd.testing.assert_frame_equal(delong({"a": np.exp(score), "b": score}, y), plain)
    assert plain["p_value"].iloc[1] == 1 and np.isnan(plain["p_value"].iloc[0])


def test_intervals_of_the_auc_cover_near_their_level():
    inside, alarms = [], []
    for trial in range(400):
        rng = np.random.default_rng(trial)
        y = np.r_[np.zeros(100), np.ones(60)]
        truth = y * np.sqrt(2) * 0.5244005 + rng.normal(size=160)  # AUC 0.7
        table = delong({"a": truth}, y)
        inside.append(table["low"][0] <= 0.7 <= table["high"][0])
        other = y * np.sqrt(2) * 0.5244005 + rng.normal(size=160)
        alarms.append(delong({"a": truth, "b": other}, y)["p_value"][1] < 0.05)
    assert abs(np.mean(inside) - 0.95) < 0.035 and np.mean(alarms) < 0.085


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_the_bootstrap_draws_whole_groups(n, seed):
    rng = np.random.default_rng(seed)
    values, users = rng.normal(size=n), rng.integers(max(1, n // 2), size=n)
    members = [np.flatnonzero(users == u) for u in pd.unique(users)]
    draws, again = [], np.random.default_rng(7)
    for _ in range(100):
        pick = again.integers(len(members), size=len(members))
        draws.append(np.median(np.concatenate([values[members[g]] for g in pick])))
    found = bootstrap_interval(np.median, values, groups=users, n_resamples=100, seed=7)
    np.testing.assert_allclose(found, [np.median(values), *np.quantile(draws, [0.025, 0.975])], atol=1e-12)


def test_rows_of_several_arrays_stay_together():
    rng = np.random.default_rng(0)
    x, users = rng.normal(size=200), rng.integers(30, size=200)
    found = bootstrap_interval(lambda a, b: np.abs(a - b).max(), x, x, groups=users, n_resamples=100)
    assert found == (0, 0, 0)


def test_resamples_without_a_value_are_left_out():
    def mean(y):
        return y.mean() if y.any() else np.nan

    few, fewer = np.repeat([1.0, 0.0], [6, 54]), np.repeat([1.0, 0.0], [1, 9])
    found = bootstrap_interval(mean, few, n_resamples=300)
    assert found.value == 0.1 and 0 < found.low < 0.1 < found.high
    found = bootstrap_interval(mean, fewer, n_resamples=300)  # a third of the resamples has no value
    assert found.value == 0.1 and np.isnan([found.low, found.high]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_agrees_with_statsmodels(rows):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    a, b = np.array(rows).T
    counts = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    assert found.p_value == pytest.approx(min(1, tables.mcnemar(counts, exact=True).pvalue), abs=1e-12)
    assert (found.only_a, found.only_b) == (counts[0][1], counts[1][0])
    assert mcnemar(b, a).p_value == pytest.approx(found.p_value, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections_agree_with_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for ours, theirs in {"holm": "holm", "fdr": "fdr_bh"}.items():
        wanted = multitest.multipletests(p, method=theirs)[1]
        np.testing.assert_allclose(correct_p_values(p, ours), wanted, atol=1e-12)
        with_gap = correct_p_values([np.nan, *p], ours)
        assert np.isnan(with_gap[0])
        np.testing.assert_allclose(with_gap[1:], wanted, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_each_of_n_examples_is_inside_the_limit_of_the_others_often_enough(scores, confidence):
    """Leave each out in turn: this is the promise, and it holds for any numbers, ties too."""
    scores = np.array(scores)
    inside = [scores[i] <= conformal_limit(np.delete(scores, i), confidence) for i in range(len(scores))]
    assert np.mean(inside) >= confidence - 1e-9


def test_the_limit_is_that_of_mapie():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(400, 3)), rng.normal(size=400)
    y, codes = X[:, 0] + noise, (X[:, 0] + noise > 0).astype(int) + (X[:, 1] > 1)
    line, classes = LinearRegression().fit(X[:100], y[:100]), LogisticRegression().fit(X[:100], codes[:100])
    for confidence in (0.8, 0.9, 0.95):
        regressor = SplitConformalRegressor(line, confidence_level=confidence, prefit=True)
        regressor.conformalize(X[100:250], y[100:250])
        ends = regressor.predict_interval(X[250:])[1][:, :, 0]
        limit = conformal_limit(np.abs(line.predict(X[100:250]) - y[100:250]), confidence)
        np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, limit, rtol=1e-9)
        classifier = SplitConformalClassifier(classes, confidence_level=confidence, prefit=True)
        classifier.conformalize(X[100:250], codes[100:250])
        own = classes.predict_proba(X[100:250])[np.arange(150), codes[100:250]]
        sets = 1 - classes.predict_proba(X[250:]) <= conformal_limit(1 - own, confidence) + 1e-12
        np.testing.assert_array_equal(classifier.predict_set(X[250:])[1][:, :, 0], sets)


def test_conformal_coverage_is_near_its_level():
    rng = np.random.default_rng(0)
    inside = [rng.gamma(1, size=50) <= conformal_limit(rng.gamma(1, size=59), 0.9) for _ in range(400)]
    assert abs(np.mean(inside) - 0.9) < 0.01


def test_coverage_by_group():
    rng = np.random.default_rng(0)
    inside, groups, size = rng.random(500) < 0.8, rng.choice(["a", "b"], 500), rng.random(500)
    table = coverage_table(inside, size, groups)
    assert table.index.tolist()[0] == "all" and set(table.index) == {"all", "a", "b"}
    for name in "ab":
        row, mine = table.loc[name], groups == name
        assert row["n"] == mine.sum() and row["coverage"] == pytest.approx(inside[mine].mean())
        assert row["size"] == pytest.approx(size[mine].mean())
        assert (row["low"], row["high"]) == pytest.approx(wilson_interval(inside[mine].sum(), mine.sum()))
    assert np.isnan(coverage_table(inside)["size"].iloc[0]) and len(coverage_table(inside)) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval(np.mean, []), "at least 1"),
        (lambda: bootstrap_interval(np.mean, [1, 2], [1]), r"\[2, 1, 2\] rows"),
        (lambda: bootstrap_interval(np.mean, [1, 2], groups=[1, None]), "no missing group"),
        (lambda: bootstrap_interval(np.mean, [1, 2], n_resamples=20), "at least 100"),
        (lambda: bootstrap_interval(np.mean, [1, 2], confidence=95), "such as 0.95"),
        (lambda: delong({"a": [0.1, 0.2]}, [0, 1], confidence=95), "such as 0.95"),
        (lambda: delong([0.1, 0.2], [0, 1]), "dict"),
        (lambda: delong({"a": [0.1, 0.2]}, [0, 1], "b"), "not among"),
        (lambda: delong({"a": [0.1, 0.2]}, [1, 1]), "some of each"),
        (lambda: delong({"a": [0.1, 0.2]}, [1, 2]), "0 and 1"),
        (lambda: delong({"a": [0.1, np.nan]}, [0, 1]), "NaN"),
        (lambda: delong({"a": [0.1]}, [0, 1]), "the same number"),
        (lambda: mcnemar([True], [True, False]), "the same number"),
        (lambda: mcnemar([0.3, 1], [0, 1]), "True or False"),
        (lambda: correct_p_values([0.1, 1.2]), "between 0 and 1"),
        (lambda: correct_p_values([0.1], "bonferroni"), "'holm' or 'fdr'"),
        (lambda: conformal_limit([1.0, np.nan]), "without NaN"),
        (lambda: conformal_limit([1.0], 90), "such as 0.95"),
        (lambda: coverage_table([True], groups=["a", "b"]), "the same number"),
        (lambda: coverage_table([True, False], size=[1]), "the same number"),
    ],
)
def test_bad_input_says_what_to_do(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()
