"""The metrics: equal to scikit-learn's, honest where nothing can be counted, with intervals that cover."""

import time
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from seqbook.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    REGRESSION_METRICS,
    EvaluationError,
    amount_bins,
    bootstrap_metrics,
    check_predictions,
    choose_threshold,
    class_metrics,
    classification_metrics,
    compare_means,
    compare_models,
    compare_regressions,
    confusion_table,
    expected_calibration_error,
    lift_table,
    mase,
    mean_metrics,
    profit_curve,
    regression_metrics,
    reliability_bins,
    threshold_table,
    too_few_amounts,
    too_small,
    wilson_interval,
)


def shoppers(n, seed=0, base=-2.0, spread=1.3):
    """Labels drawn from known probabilities."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(base, spread, size=n)))
    return (rng.random(n) < p).astype(int), p


def reference(y, proba, weights):
    """The same metrics by scikit-learn; precision is left out where a class is never predicted."""
    k, told = proba.shape[1], {"sample_weight": weights}
    predicted = (proba[:, 1] >= 0.5).astype(int) if k == 2 else proba.argmax(1)
    average = {"average": "binary" if k == 2 else "macro", **told}
    score = proba[:, 1] if k == 2 else proba
    values = {
        "accuracy": skm.accuracy_score(y, predicted, **told),
        "recall": skm.recall_score(y, predicted, **average),
        "f1": skm.f1_score(y, predicted, **average),
        "roc_auc": skm.roc_auc_score(y, score, multi_class="ovr", **told),
        "average_precision": skm.average_precision_score(y, score, **told),
        "brier": skm.brier_score_loss(y, score, labels=range(k), **told),
        "log_loss": skm.log_loss(y, proba, labels=range(k), **told),
    }
    if all((predicted == c).any() for c in ([1] if k == 2 else range(k))):
        values["precision"] = skm.precision_score(y, predicted, **average)
    return values


@st.composite
def examples(draw):
    """Labels of two to four classes, probabilities with many ties, weights that are often equal."""
    k, n, seed = draw(st.integers(2, 4)), draw(st.integers(6, 80)), draw(st.integers(0, 2**32 - 1))
    rng, levels = np.random.default_rng(seed), draw(st.sampled_from([2, 3, 10, 10_000]))
    y = np.r_[np.arange(k), rng.integers(k, size=n - k)]
    raw = rng.integers(0, levels, size=(n, k)) + 1e-3
    proba = raw / raw.sum(axis=1, keepdims=True)
    if k == 2:
        proba[:, 0] = 1 - proba[:, 1]
    weights = draw(st.sampled_from([np.ones(n), rng.integers(1, 4, size=n) / 1.0, rng.random(n) + 0.1]))
    return y, proba, weights


@settings(max_examples=100, deadline=None)
@given(examples())
def test_agrees_with_scikit_learn(example):
    y, proba, weights = example
    found = classification_metrics(y, proba, sample_weight=weights, min_count=0)
    for name, value in reference(y, proba, weights).items():
        assert found[name] == pytest.approx(value, rel=0, abs=1e-12), name


@settings(max_examples=60, deadline=None)
@given(examples())
def test_a_weight_is_a_repetition_and_order_does_not_matter(example):
    y, proba, _ = example
    counts = np.random.default_rng(len(y)).integers(0, 4, size=len(y))
    counts[: proba.shape[1]] += 1
    weighted = classification_metrics(y, proba, sample_weight=counts, min_count=0)
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(y)), counts))
    repeated = classification_metrics(y[rows], proba[rows], min_count=0)
    for name in METRICS:
        assert weighted[name] == pytest.approx(repeated[name], abs=1e-12, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(examples())
def test_auc_is_the_share_of_pairs_in_order(example):
    y, proba, _ = example
    flags = y == 1
    above = proba[flags, 1][:, None] - proba[~flags, 1][None, :]
    pairs = ((above > 0) + (above == 0) / 2).mean()
    two = classification_metrics(flags, proba[:, 1], min_count=0)
    assert two["roc_auc"] == pytest.approx(pairs, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(examples())
def test_threshold_table_counts_right(example):
    y, proba, _ = example
    table = threshold_table(y == 1, proba[:, 1])
    for row in table.itertuples():
        picked = proba[:, 1] >= row.threshold
        assert (row.tp, row.fp) == ((picked & (y == 1)).sum(), (picked & (y != 1)).sum())
    assert (table[["tp", "fp", "fn", "tn"]].sum(axis=1) == len(y)).all()


@pytest.mark.parametrize(
    "labels", [["no", "yes"], [False, True], [0, 1], [-1, 1], np.array(["a", "b"], dtype=object)]
)
def test_labels_of_any_kind(labels):
    codes, p = shoppers(500)
    expected = classification_metrics(codes, p)
    found = classification_metrics(np.asarray(labels)[codes], np.column_stack([1 - p, p]), labels)
    assert found == pytest.approx(expected, abs=1e-12)


def test_series_and_float32_are_taken():
    y, p = shoppers(500)
    found = classification_metrics(pd.Series(y, index=range(7, 507)), pd.Series(p.astype("float32")))
    assert found == pytest.approx(classification_metrics(y, p), abs=1e-4)
    softmax = np.column_stack([1 - p, p]).astype("float32") * np.float32(1.0000001)
    assert classification_metrics(y, softmax)["roc_auc"] == pytest.approx(skm.roc_auc_score(y, p), abs=1e-4)


# -- nothing is made up


def test_nothing_is_scored_below_the_minimum():
    y, p = np.r_[np.zeros(1000, int), np.ones(29, int)], np.random.default_rng(0).random(1029)
    found = classification_metrics(y, p)
    assert np.isnan(list(found.values())).all() and set(found.reasons) == set(METRICS)
    table = bootstrap_metrics(y, p, n_resamples=100)
    assert table[["value", "low", "high"]].isna().all(axis=None) and (table["reason"] != "").all()
    y[0] = 1
    assert not np.isnan(classification_metrics(y, p)["roc_auc"])


def test_one_class_in_the_labels():
    y, p = np.zeros(500, int), np.random.default_rng(0).random(500)
    assert np.isnan(list(classification_metrics(y, p).values())).all()
    found = classification_metrics(y, p, min_count=0)
    assert found["accuracy"] == pytest.approx((p < 0.5).mean())
    assert np.isnan([found["recall"], found["roc_auc"], found["average_precision"]]).all()
    assert {"recall", "roc_auc", "average_precision"} <= set(found.reasons)


def test_nobody_predicted():
    y, p = shoppers(1000)
    found = classification_metrics(y, p * 0.4)
    assert np.isnan(found["precision"]) and found["recall"] == 0 and found["f1"] == 0
    assert found.reasons == {"precision": "no example is predicted 1"}
    table = bootstrap_metrics(y, p * 0.4, n_resamples=100).set_index("metric")
    assert np.isnan(table.loc["precision", "low"]) and "predicted" in table.loc["precision", "reason"]


def test_no_interval_on_a_handful_of_predictions():
    y, p = shoppers(2000)
    p = p * 0.4
    p[np.flatnonzero(y)[:2]] = 0.9
    row = bootstrap_metrics(y, p).set_index("metric").loc["precision"]
    assert row["value"] == 1 and np.isnan([row["low"], row["high"]]).all() and "resamples" in row["reason"]


def test_rare_classes_are_left_out_of_averages_and_named():
    rng = np.random.default_rng(0)
    y = np.r_[rng.integers(3, size=900), np.full(5, 3)]
    proba = rng.dirichlet(np.ones(4), size=905) * 0.5 + 0.5 * np.eye(4)[y]
    found, each = classification_metrics(y, proba), class_metrics(y, proba)
    assert each.loc[3, ["precision", "recall", "roc_auc"]].isna().all() and each.loc[3, "examples"] == 5
    for name in ("recall", "f1", "roc_auc", "average_precision"):
        assert found[name] == pytest.approx(each.loc[:2, name].mean(), abs=1e-12)
        assert "[3]" in found.reasons[name]


def test_class_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=600)
    proba = rng.dirichlet(np.ones(3), size=600) * 0.7 + 0.3 * np.eye(3)[y]
    each = class_metrics(y, proba)
    told = skm.precision_recall_fscore_support(y, proba.argmax(1))
    for name, values in zip(["precision", "recall", "f1", "examples"], told, strict=True):
        np.testing.assert_allclose(each[name], values, atol=1e-12)
    assert (confusion_table(y, proba).to_numpy() == skm.confusion_matrix(y, proba.argmax(1))).all()


@pytest.mark.parametrize(
    ("y", "options", "says"),
    [
        ([], {}, "no example"),
        ([1] * 40, {}, "all 40 labels are 1"),
        ([0] * 100 + [1] * 3, {}, "the label 1: 3,"),
        (["a"] * 100 + ["b"] * 3, {"classes": ["a", "b"]}, "the label 'b': 3,"),
        ([0, 1] * 50, {"groups": [1, 2] * 50}, "groups"),
        ([0] * 50 + [1] * 3 + [2] * 3, {}, "of each of two classes"),
    ],
)
def test_too_small_says_why(y, options, says):
    why = too_small(y, **options)
    assert says in why and "longer" in why and len(why.split("\n")) == 1


def test_not_too_small():
    assert too_small([0] * 100 + [1] * 30) is None
    assert too_small([0] * 100 + [1] * 30 + [2] * 2) is None
    assert too_small([0] * 100 + [1] * 3, min_count=3) is None
    assert too_small([0, 1] * 50, groups=np.arange(100)) is None


# -- intervals


def delong(y, score):
    """The AUC and its standard error without resampling (DeLong et al. 1988)."""
    above = (score[y == 1][:, None] > score[y == 0][None, :]).astype(float)
    parts = [above.mean(axis=axis).var(ddof=1) / above.shape[1 - axis] for axis in (0, 1)]
    return above.mean(), np.sqrt(sum(parts))


def test_intervals_cover_near_their_level():
    """The AUC of two normal classes is known, so we can count how often an interval holds it.

    The band is three binomial standard errors. Luck of the data moves any method alike, so DeLong's interval
    on the same data is the sharper check. Data and resamples have random streams of their own."""
    truth, trials, inside, by_delong = NormalDist().cdf(1 / np.sqrt(2)), 200, [], []
    y = np.repeat([0, 1], [250, 100])
    for seed in range(trials):
        score = np.random.default_rng([seed, 1]).normal(y, 1)
        table = bootstrap_metrics(y, 1 / (1 + np.exp(-score)), n_resamples=200, seed=seed)
        row, (area, error) = table.set_index("metric").loc["roc_auc"], delong(y, score)
        inside.append(row["low"] <= truth <= row["high"])
        by_delong.append(abs(area - truth) <= 1.96 * error)
    assert abs(np.mean(inside) - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / trials)
    assert abs(np.mean(inside) - np.mean(by_delong)) <= 0.02


def test_groups_cover_where_single_examples_do_not():
    """Users of 10 equal examples: only whole users give intervals that hold the truth often enough."""
    inside, trials = {"examples": [], "users": []}, 100
    users = np.repeat(np.arange(60), 10)
    for seed in range(trials):
        rng = np.random.default_rng([seed, 2])
        right = rng.random(60) < 0.8
        y = np.repeat(rng.permutation([0, 1] * 30), 10)
        p = np.where(right[users], y, 1 - y)
        for name, groups in (("examples", None), ("users", users)):
            row = bootstrap_metrics(y, p, n_resamples=150, groups=groups, seed=seed, min_count=1).iloc[0]
            inside[name].append(row["low"] <= 0.8 <= row["high"])
    assert np.mean(inside["examples"]) < 0.7
    assert abs(np.mean(inside["users"]) - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / trials)


def test_equals_resampling_and_scoring_again():
    y, p = shoppers(300)
    rng, values = np.random.default_rng(5), []
    for _ in range(200):
        pick = rng.integers(300, size=300)
        values.append(list(classification_metrics(y[pick], p[pick], min_count=0).values()))
    table = bootstrap_metrics(y, p, n_resamples=200, seed=5, confidence=0.9)
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    with_interval = table["low"].notna()
    assert with_interval.sum() >= 7
    np.testing.assert_allclose(table["low"][with_interval], low[with_interval], atol=1e-12)
    np.testing.assert_allclose(table["high"][with_interval], high[with_interval], atol=1e-12)


def test_equals_drawing_whole_groups():
    y, p = shoppers(400)
    groups = np.random.default_rng(0).integers(150, size=400)
    names, codes = np.unique(groups, return_inverse=True)
    rng, values = np.random.default_rng(2), []
    order = pd.factorize(groups)[0]
    members = [np.flatnonzero(order == g) for g in range(len(names))]
    for _ in range(150):
        pick = np.concatenate([members[g] for g in rng.integers(len(names), size=len(names))])
        values.append(classification_metrics(y[pick], p[pick], min_count=0)["roc_auc"])
    row = bootstrap_metrics(y, p, n_resamples=150, groups=groups, seed=2).set_index("metric").loc["roc_auc"]
    np.testing.assert_allclose([row["low"], row["high"]], np.quantile(values, [0.025, 0.975]), atol=1e-12)


def test_seed_decides():
    y, p = shoppers(300)
    same = [bootstrap_metrics(y, p, n_resamples=100, seed=1) for _ in range(2)]
    pd.testing.assert_frame_equal(*same)
    assert not same[0].equals(bootstrap_metrics(y, p, n_resamples=100, seed=2))


def test_perfect_scores_are_doubted():
    y, _ = shoppers(500)
    table = bootstrap_metrics(y, y.astype(float), n_resamples=100).set_index("metric")
    assert "leak" in table.loc["roc_auc", "reason"] and table.loc["brier", "reason"] == ""


# -- comparing


def test_differences_are_paired():
    y, p = shoppers(3000)
    near = (p + np.random.default_rng(0).normal(0, 0.01, size=len(p))).clip(0, 1)
    table = compare_models({"near": near, "true": p}, y).set_index(["model", "metric"])
    row = table.loc[("true", "log_loss")]
    assert row["difference"] == pytest.approx(row["value"] - table.loc[("near", "log_loss"), "value"])
    assert row["difference_high"] - row["difference_low"] < 0.3 * (row["high"] - row["low"])
    assert table.loc["near", ["difference", "difference_low"]].isna().all(axis=None)


def test_verdicts_know_which_way_is_better():
    y, p = shoppers(5000)
    bad = np.random.default_rng(0).permutation(p)
    table = compare_models({"true": p, "bad": bad, "same": p}, y, baseline="true", n_resamples=200)
    told = table.set_index(["model", "metric"])["verdict"]
    others = {*LOWER_IS_BETTER} - {*METRICS, *REGRESSION_METRICS}
    assert others == {"mape", "mase", "pinball", "gap_error", "log_gap_error"}
    assert (told["bad"][["roc_auc", "average_precision", "brier", "log_loss"]] == "worse").all()
    assert (told["same"] == "not clear").all() and (told["true"] == "").all()
    turned = compare_models({"true": p, "bad": bad}, y, baseline="bad", n_resamples=200)
    told = turned.set_index(["model", "metric"])["verdict"]["true"]
    assert (told[["roc_auc", "average_precision", "brier", "log_loss"]] == "better").all()


def test_threshold_by_model():
    y, p = shoppers(1000)
    table = compare_models({"a": p, "b": p}, y, threshold={"a": 0.5, "b": 0.2}, n_resamples=100)
    values = table.set_index(["model", "metric"])["value"]
    assert values["b", "recall"] == pytest.approx(classification_metrics(y, p, threshold=0.2)["recall"])
    assert values["a", "recall"] < values["b", "recall"]
    with pytest.raises(EvaluationError, match="'b'"):
        compare_models({"a": p, "b": p}, y, threshold={"a": 0.5})


# -- thresholds and calibration


@settings(max_examples=60, deadline=None)
@given(examples(), st.sampled_from([None, 0.05, 0.3, 1, 4]))
def test_the_chosen_threshold_is_the_best_of_all(example, cost):
    y, proba, _ = example
    y, p = y == 1, proba[:, 1]

    def value(threshold):
        picked = p >= threshold
        hits, alarms, missed = (picked & y).sum(), (picked & ~y).sum(), (~picked & y).sum()
        return 2 * hits / (2 * hits + alarms + missed) if cost is None else -(cost * alarms + missed)

    best = max(value(t) for t in [*np.unique(p), 1.0])
    assert value(choose_threshold(y, p, cost=cost)) == pytest.approx(best, abs=1e-12)


def test_threshold_chosen_on_test_data_is_too_good():
    honest, cheating = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        (y_a, y_b), (p_a, p_b) = rng.random((2, 200)) < 0.15, rng.random((2, 200))
        for scores, limit in ((honest, choose_threshold(y_a, p_a)), (cheating, choose_threshold(y_b, p_b))):
            scores.append(classification_metrics(y_b, p_b, threshold=limit, min_count=0)["f1"])
    assert np.mean(cheating) > np.mean(honest) + 0.02


def test_bins_of_equal_counts_keep_ties_together():
    y, p = shoppers(1000)
    table = reliability_bins(y, p)
    assert (table["n"] == 100).all() and table["predicted"].is_monotonic_increasing
    one = reliability_bins(y, np.full(1000, 0.2))
    assert one["n"].tolist() == [1000] and one["observed"][0] == pytest.approx(y.mean())
    tied = np.r_[np.full(640, 0.1), p[640:]]
    table = reliability_bins(y, tied)
    assert table["n"].sum() == 1000 and table["n"].min() >= 20
    both = (table["low"] <= table["observed"]) & (table["observed"] <= table["high"])
    assert both.all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 15))
def test_bins_hold_each_example_once(scores, n_bins):
    p = np.array(scores) / 12
    table = reliability_bins(np.zeros(len(p), int), p, n_bins=n_bins)
    assert table["n"].sum() == len(p) and 1 <= len(table) <= n_bins
    assert table["predicted"].is_monotonic_increasing
    assert len(table) == 1 or table["n"].min() >= len(p) / n_bins / 2


def test_calibration_error():
    y, p = shoppers(50_000)
    assert expected_calibration_error(y, p) < 0.01 < 0.1 < expected_calibration_error(y, np.sqrt(p))
    assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert np.isnan(expected_calibration_error([], np.zeros(0)))
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=20_000)
    drawn = (rng.random(20_000)[:, None] > proba.cumsum(axis=1)).sum(axis=1)
    assert expected_calibration_error(drawn, proba) < 0.02
    assert expected_calibration_error(drawn, proba[:, [1, 2, 0]]) > 0.1


def test_wilson_interval():
    low, high = wilson_interval([0, 5, 10], 10)
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1], atol=1e-4)


# -- bad input


@pytest.mark.parametrize(
    ("y", "proba", "classes", "says"),
    [
        ([0, 1], [0.2, 1.5], None, "holds 1.5 in row 1"),
        ([0, 1], [0.2, -0.5], None, "holds -0.5 in row 1"),
        ([0, 1], [0.2, np.inf], None, "holds inf in row 1"),
        ([0, 1], [np.nan, 0.5], None, "the first is row 0"),
        ([0, 1], ["x", "y"], None, "not numbers"),
        ([0, 1, 0], [0.2, 0.5], None, "3 labels but 2 rows"),
        ([0, 1], [[0.5], [0.5]], None, "shape"),
        ([0, 1], [[[0.5, 0.5]]], None, "shape"),
        ([0, 1], 0.5, None, "shape"),
        ([0, 1], [[0.5, 0.2], [0.5, 0.5]], None, "row 0 of proba sums to 0.7"),
        ([[0, 1]], [0.2, 0.5], None, "flat array"),
        ([0, np.nan], [0.2, 0.5], None, "the first is row 1"),
        (["a", None], [0.2, 0.5], ["a", "b"], "missing"),
        (["a", "b"], [0.2, 0.5], None, "pass classes="),
        (["0", "1"], [0.2, 0.5], None, "pass classes="),
        ([0, 1], [0.2, 0.5], [0, 1, 2], "pass each class once"),
        ([0, 1], [0.2, 0.5], [1, 1], "pass each class once"),
    ],
)
def test_bad_input_says_what_to_do(y, proba, classes, says):
    for function in (check_predictions, classification_metrics, bootstrap_metrics, threshold_table):
        with pytest.raises(EvaluationError) as error:
            function(y, proba, classes)
        assert says in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_resamples": 1}, "at least 100"),
        ({"confidence": 95}, "0.95"),
        ({"groups": [1, 2]}, "one value for each"),
        ({"groups": [None] * 300}, "missing"),
        ({"sample_weight": [-1] * 300}, "not negative"),
        ({"sample_weight": [1]}, "one value for each"),
        ({"threshold": 50}, "between 0 and 1"),
    ],
)
def test_bad_options_say_what_to_do(options, says):
    y, p = shoppers(300)
    with pytest.raises(EvaluationError, match=says):
        bootstrap_metrics(y, p, **options)


def test_bad_comparisons():
    y, p = shoppers(300)
    with pytest.raises(EvaluationError, match="dict"):
        compare_models(p, y)
    with pytest.raises(EvaluationError, match="not among"):
        compare_models({"a": p}, y, baseline="b")
    with pytest.raises(EvaluationError, match="label="):
        threshold_table([0, 1, 2], np.eye(3))
    with pytest.raises(EvaluationError, match="one class"):
        choose_threshold([0, 0], [0.1, 0.2])
    with pytest.raises(EvaluationError, match="n_bins"):
        reliability_bins(y, p, n_bins=0)
    assert issubclass(EvaluationError, ValueError)


def test_a_thousand_resamples_of_fifty_thousand_take_seconds():
    y, p = shoppers(50_000, base=-3)
    start = time.process_time()
    table = bootstrap_metrics(y, p)
    assert table["low"].notna().all()
    assert time.process_time() - start < 15


# -- amounts


def spenders(n, seed=0, share=0.3):
    """Money of shoppers, most of whom spend nothing, and a noisy forecast of it."""
    rng = np.random.default_rng(seed)
    y = rng.gamma(1, 30, size=n).round() * (rng.random(n) < share)
    return y, (0.5 * y + rng.gamma(1, 10, size=n)).round()


def gini_by_pairs(y, predicted):
    """The same from all pairs: which of the two has more, and who stands above; a tie counts 0."""
    gaps = (y[:, None] - y[None, :]) / 2
    return (gaps * np.sign(predicted[:, None] - predicted[None, :])).sum() / np.abs(gaps).sum()


@st.composite
def amounts(draw):
    """Amounts and predictions with many ties, and how often each example stands there."""
    n, seed = draw(st.integers(4, 60)), draw(st.integers(0, 2**32 - 1))
    rng, levels = np.random.default_rng(seed), draw(st.sampled_from([3, 10, 10_000]))
    y = rng.integers(levels, size=n) * rng.integers(2, size=n) / 1.0
    y[:2] = 1, levels
    return y, np.r_[0, 1, rng.integers(levels, size=n - 2)] - 0.5, rng.integers(1, 4, size=n)


@settings(max_examples=100, deadline=None)
@given(amounts())
def test_amounts_agree_with_scikit_learn_and_scipy(example):
    y, predicted, counts = example
    found = regression_metrics(y, predicted, sample_weight=counts, min_count=0)
    long, said = np.repeat(y, counts), np.repeat(predicted, counts)
    assert found["mae"] == pytest.approx(
        skm.mean_absolute_error(y, predicted, sample_weight=counts), abs=1e-9
    )
    rmse = skm.root_mean_squared_error(y, predicted, sample_weight=counts)
    assert found["rmse"] == pytest.approx(rmse, rel=1e-12)
    assert found["spearman"] == pytest.approx(spearmanr(long, said).statistic, abs=1e-10)
    assert found["gini"] == pytest.approx(gini_by_pairs(long, said), abs=1e-10)
    assert found["wape"] == pytest.approx(np.abs(said - long).sum() / long.sum())
    assert found["bias"] == pytest.approx(said.sum() / long.sum() - 1)


@settings(max_examples=60, deadline=None)
@given(examples())
def test_the_gini_of_zeros_and_ones_is_that_of_the_auc(example):
    y, proba, _ = example
    flags = (y == 1) / 1.0
    area = skm.roc_auc_score(flags, proba[:, 1])
    assert regression_metrics(flags, proba[:, 1], min_count=0)["gini"] == pytest.approx(
        2 * area - 1, abs=1e-10
    )


def test_orders_do_not_depend_on_the_scale():
    y, predicted = spenders(500)
    one, other = regression_metrics(y, predicted), regression_metrics(y, np.sqrt(predicted) * 7)
    assert one["gini"] == pytest.approx(other["gini"]) and one["spearman"] == pytest.approx(other["spearman"])
    best = regression_metrics(y, y)
    assert best["gini"] == 1 and best["mae"] == 0 and best["bias"] == 0


def test_what_cannot_be_computed_of_amounts_has_a_reason():
    zero = regression_metrics(np.zeros(100), np.arange(100.0), min_count=0)
    assert np.isnan([zero[name] for name in ("wape", "bias", "spearman", "gini")]).all()
    assert set(zero.reasons) == {"wape", "bias", "spearman", "gini"} and zero["mae"] == 49.5
    equal = regression_metrics(np.full(100, 7.0), np.arange(100.0))
    assert equal.reasons.keys() == {"spearman", "gini"} and not np.isnan(equal["wape"])
    same = regression_metrics(spenders(500)[0], np.full(500, 0.1 + 0.2))
    assert same.reasons.keys() == {"spearman"} and "predictions" in same.reasons["spearman"]
    assert same["gini"] == 0
    weightless = regression_metrics(*spenders(100), sample_weight=np.zeros(100), min_count=0)
    assert "weights" in weightless.reasons["mae"] and np.isnan(list(weightless.values())).all()


@pytest.mark.parametrize(
    ("y", "groups", "says"),
    [
        ([], None, "no example"),
        ([0.0] * 50, None, "all 50 amounts are 0"),
        ([0.0] * 500 + [1.0] * 29, None, "too few examples have an amount other than 0: 29,"),
        ([1.0] * 60, [1, 2] * 30, "too few groups have an amount other than 0: 2,"),
    ],
)
def test_too_few_amounts_say_why(y, groups, says):
    assert says in too_few_amounts(y, groups)
    table = compare_regressions({"a": np.zeros(len(y))}, y, groups=groups, n_resamples=100)
    assert table[["value", "low", "high"]].isna().all(axis=None) and says in table["reason"][0]


def test_enough_amounts():
    assert too_few_amounts([0.0] * 500 + [1.0] * 30) is None
    assert too_few_amounts([0.0] * 500 + [1.0] * 3, min_count=3) is None
    assert too_few_amounts([2.0] * 30, np.arange(30)) is None


def test_a_comparison_of_amounts_equals_resampling_and_scoring_again():
    y, predicted = spenders(300)
    users = np.random.default_rng(1).integers(100, size=300)
    order = pd.factorize(users)[0]
    members = [np.flatnonzero(order == g) for g in range(order.max() + 1)]
    rng, values = np.random.default_rng(5), []
    for _ in range(150):
        pick = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        scores = [regression_metrics(y[pick], said[pick], min_count=0) for said in (predicted, 2 * predicted)]
        values.append([list(score.values()) for score in scores])
    table = compare_regressions(
        {"a": predicted, "b": 2 * predicted}, y, n_resamples=150, groups=users, seed=5
    )
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(table["low"], low.ravel(), atol=1e-9)
    np.testing.assert_allclose(table["high"], high.ravel(), atol=1e-9)
    gaps = (
        np.abs(values)[:, 1] - np.abs(values)[:, 0]
    )  # of the bias the distance from 0; the others are above 0
    low, high = np.quantile(gaps, [0.025, 0.975], axis=0)
    other = table[table["model"] == "b"]
    np.testing.assert_allclose(other["difference_low"], low, atol=1e-9)
    np.testing.assert_allclose(other["difference_high"], high, atol=1e-9)


def test_both_comparisons_have_the_same_columns():
    y, p = shoppers(500)
    one = compare_models({"a": p, "b": p}, y, n_resamples=100)
    other = compare_regressions({"a": p, "b": p}, y, n_resamples=100)
    assert list(one) == list(other) and (one.dtypes == other.dtypes).all()
    assert other["metric"].tolist() == [*REGRESSION_METRICS] * 2


def test_verdicts_on_amounts():
    y, predicted = spenders(3000)
    models = {
        "base": predicted,
        "low": predicted - 20,
        "noise": np.random.default_rng(0).permutation(predicted),
    }
    told = compare_regressions(models, y, n_resamples=200).set_index(["model", "metric"])
    verdict = told["verdict"]
    assert told.loc[("base", "bias"), "value"] > 0 > told.loc[("low", "bias"), "value"]
    assert verdict["low", "bias"] == "worse" and verdict["low", "gini"] == "not clear"
    assert (verdict["noise"][["mae", "rmse", "wape", "spearman", "gini"]] == "worse").all()
    turned = compare_regressions(models, y, baseline="noise", n_resamples=200).set_index(["model", "metric"])
    assert (turned["verdict"]["base"][["mae", "rmse", "wape", "spearman", "gini"]] == "better").all()


def test_intervals_of_a_mean_error_cover_near_their_level():
    inside, trials = [], 200
    for seed in range(trials):
        y = np.random.default_rng([seed, 3]).gamma(2, 10, size=200)
        row = compare_regressions({"mean": np.full(200, 20.0)}, y, n_resamples=200, seed=seed).iloc[3]
        inside.append(row["low"] <= 0 <= row["high"])
    assert row["metric"] == "bias" and abs(np.mean(inside) - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / trials) + 0.01


def test_perfect_amounts_are_doubted():
    y, _ = spenders(500)
    table = compare_regressions({"a": y, "zero": 0 * y, "double": 2 * y}, y, n_resamples=100)
    told = table.set_index(["model", "metric"])["reason"]
    assert "leak" in told["a", "gini"] and told["a", "mae"] == ""
    assert told["zero", "wape"] == "" and told["double", "bias"] == ""


def test_bins_of_amounts():
    y, predicted = spenders(1000)
    table = amount_bins(y, predicted)
    assert table["n"].sum() == 1000 and table["predicted"].is_monotonic_increasing
    assert np.average(table["observed"], weights=table["n"]) == pytest.approx(y.mean())
    rows = np.argsort(predicted, kind="stable")[-table["n"].iloc[-1] :]
    half = 1.96 * y[rows].std(ddof=1) / np.sqrt(len(rows))
    assert table["high"].iloc[-1] - table["observed"].iloc[-1] == pytest.approx(half, rel=1e-4)
    assert amount_bins(y, np.zeros(1000))["n"].tolist() == [1000]


@pytest.mark.parametrize(
    ("y", "predicted", "says"),
    [
        ([1, 2], [1, np.nan], "1 of 2 values of the prediction 'model' are missing or infinite, .* row 1"),
        ([1, np.inf], [1, 2], "values of y are missing or infinite"),
        ([1, None], [1, 2], "values of y are missing"),
        ([1, 2], [[1], [2]], "shape .*flat array"),
        ([1, 2], ["a", "b"], "not numbers"),
        ([1, 2], [1, 2, 3], "2 amounts but 3 predictions"),
    ],
)
def test_bad_amounts_say_what_to_do(y, predicted, says):
    for function in (regression_metrics, amount_bins, lambda y, p: compare_regressions({"model": p}, y)):
        with pytest.raises(EvaluationError, match=says):
            function(y, predicted)


def test_bad_comparisons_of_amounts():
    y, predicted = spenders(300)
    with pytest.raises(EvaluationError, match="dict"):
        compare_regressions(predicted, y)
    with pytest.raises(EvaluationError, match="not among"):
        compare_regressions({"a": predicted}, y, baseline="b")
    with pytest.raises(EvaluationError, match="one value for each"):
        compare_regressions({"a": predicted}, y, groups=[1])
    with pytest.raises(EvaluationError, match="not negative"):
        compare_regressions({"a": predicted}, y, sample_weight=[-1] * 300)


def test_a_thousand_resamples_of_amounts_take_seconds():
    y, predicted = spenders(50_000)
    start = time.process_time()
    table = compare_regressions({"a": predicted}, y)
    assert table["low"].notna().all()
    assert time.process_time() - start < 15


@settings(max_examples=60, deadline=None)
@given(examples(), st.lists(st.integers(-9, 9), min_size=4, max_size=4))
def test_profit_equals_counting_at_every_threshold(example, values):
    y, proba, _ = example
    flags, score, payoff = y == 1, proba[:, 1], np.reshape(values, (2, 2))
    table = profit_curve(flags, score, payoff)
    assert set(table["threshold"]) == {np.inf, *score}
    for row in table.itertuples():
        picked = score >= row.threshold
        assert row.profit == payoff[flags.astype(int), picked.astype(int)].sum()
        assert row.picked == pytest.approx(picked.mean())
    right = profit_curve(flags, score, [[1, 0], [0, 1]]).set_index("threshold")["profit"] / len(y)
    told = {limit: classification_metrics(flags, score, threshold=limit, min_count=0) for limit in set(score)}
    assert all(right[limit] == pytest.approx(metrics["accuracy"]) for limit, metrics in told.items())


def test_the_most_profitable_threshold_is_that_of_the_formula():
    p = np.random.default_rng(0).random(200_000)
    y = np.random.default_rng(1).random(200_000) < p
    table = profit_curve(y, p, [[0, -2], [-1, 5]])  # a buyer who is left alone costs 1
    best = table.loc[table["profit"].idxmax()]
    assert best["threshold"] == pytest.approx(2 / 8, abs=0.03)
    cheap = choose_threshold(y, p, cost=0.25)
    by_cost = profit_curve(y, p, [[0, -0.25], [-1, 0]])
    assert cheap == by_cost.loc[by_cost["profit"].idxmax(), "threshold"]


@settings(max_examples=60, deadline=None)
@given(examples(), st.integers(1, 12))
def test_lift_and_gain_count_buyers(example, n_bins):
    y, proba, _ = example
    flags, score = y == 1, proba[:, 1]
    table = lift_table(flags, score, n_bins=n_bins)
    assert table["n"].sum() == len(y) and table["positives"].sum() == flags.sum()
    order = np.sort(score)[::-1]
    for row in table.itertuples():
        top = score >= order[round(row.picked * len(y)) - 1]
        assert top.mean() == pytest.approx(row.picked)
        assert row.gain == pytest.approx(flags[top].sum() / flags.sum())
        assert row.total_lift == pytest.approx(flags[top].mean() / flags.mean())
    assert table["gain"].iloc[-1] == pytest.approx(1) and table["total_lift"].iloc[-1] == pytest.approx(1)
    assert np.average(table["lift"], weights=table["n"]) == pytest.approx(1)


def test_no_buyers_no_lift():
    assert lift_table([0, 0, 0], [0.1, 0.2, 0.3])[["lift", "gain"]].isna().all(axis=None)
    assert len(lift_table([], np.zeros(0))) == 0


def test_the_scaled_error_is_a_ratio_to_the_errors_of_the_past():
    y, predicted = spenders(300)
    known, naive = y[::-1][:250] + 1, np.roll(y, 3)[:250]
    ratio = skm.mean_absolute_error(y, predicted) / skm.mean_absolute_error(known, naive)
    assert mase(y, predicted, known, naive) == pytest.approx(ratio)
    assert mase(100 * y, 100 * predicted, 100 * known, 100 * naive) == pytest.approx(ratio)
    assert mase(y, y, known, naive) == 0 and np.isnan(mase(y, predicted, known, known))
    assert np.isnan(mase([], [], known, naive)) and np.isnan(mase(y, predicted, [], []))
    weights = np.r_[np.ones(200), np.zeros(100)]
    some = mase(y[:200], predicted[:200], known, naive)
    assert mase(y, predicted, known, naive, weights) == pytest.approx(some)


def test_the_scaled_error_of_a_series():
    """As Hyndman and Koehler define it: one step naive errors of the series before."""
    series, future, forecast = [3.0, 5, 4, 8], [6.0, 9], [7.0, 7]
    assert mase(future, forecast, series[1:], series[:-1]) == pytest.approx(1.5 / ((2 + 1 + 4) / 3))


def test_means_agree_with_the_other_comparisons():
    y, p = shoppers(400)
    table = pd.DataFrame({"brier": (p - y) ** 2, "accuracy": (p >= 0.5) == y})
    other = pd.DataFrame({"brier": (p / 2 - y) ** 2, "accuracy": (p / 2 >= 0.5) == y})
    options = dict(n_resamples=200, groups=np.arange(400) // 3, seed=4)
    means = compare_means({"a": table, "b": other}, **options).set_index(["model", "metric"])
    models = (
        compare_models({"a": p, "b": p / 2}, y, **options).set_index(["model", "metric"]).loc[means.index]
    )
    numbers = ["value", "low", "high", "difference", "difference_low", "difference_high"]
    np.testing.assert_allclose(means[numbers].astype(float), models[numbers].astype(float), atol=1e-12)
    assert (means["verdict"] == models["verdict"]).all()
    renamed = [part.rename(columns={"brier": "my loss"}) for part in (table, other)]
    mine = compare_means(dict(zip("ab", renamed, strict=True)), lower_is_better=["my loss"], **options)
    assert mine["verdict"].tolist() == means["verdict"].tolist() and "worse" in set(mine["verdict"])
    losses = {"a": pd.DataFrame({"my loss": np.ones(400)}), "b": pd.DataFrame({"my loss": np.zeros(400)})}
    assert (compare_means(losses, lower_is_better=["my loss"], **options)["reason"] == "").all()
    assert "leak" in compare_means(losses, **options)["reason"][0]
    with_more = compare_means(dict(zip("ab", renamed, strict=True)), **options)["verdict"]
    assert with_more.tolist() == means["verdict"].replace("worse", "better").tolist()
    assert mean_metrics(table, np.ones(400))["brier"] == pytest.approx(((p - y) ** 2).mean())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: profit_curve([0, 1], [0.1, 0.2], [1, 2]), "2 by 2"),
        (lambda: profit_curve([0, 1], [0.1, 0.2], [[0, np.nan], [1, 2]]), "2 by 2"),
        (lambda: lift_table([0, 1], [0.1, 0.2], n_bins=0), "n_bins"),
        (lambda: lift_table([0, 1, 2], np.eye(3)), "label="),
        (lambda: mase([1, 2], [1, 2], [1, 2], [1]), "2 amounts but 1 predictions of 'naive'"),
        (lambda: compare_means({"a": pd.DataFrame({"x": [1.0]})}, "x loss"), "a list of their names"),
        (lambda: compare_means({"a": pd.DataFrame({"x": [1.0]})}, ["y"]), r"names \['y'\]"),
        (lambda: wilson_interval(1, 2, confidence=95), "such as 0.95"),
        (lambda: amount_bins([1, 2], [1, 2], confidence=95), "such as 0.95"),
        (
            lambda: compare_means({"a": pd.DataFrame({"x": [1.0]}), "b": pd.DataFrame({"y": [1.0]})}),
            "different",
        ),
        (lambda: compare_means({}), "dict"),
    ],
)
def test_what_is_wrong_with_payoffs_and_tables(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()
