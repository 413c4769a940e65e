"""Clicks, uplift, bandits, budgets and attribution: properties, agreement with peers, bad input."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import LinearRegression, LogisticRegression

from seqbook.applications.advertising import (
    EXPLORE,
    PARTS,
    RULES,
    ClickNetwork,
    DelayedClassifier,
    LinearBandit,
    UpliftLearner,
    allocate_budget,
    attribute,
    concave_hull,
    hash_codes,
    holdout_effect,
    one_hot,
    paced_bids,
    shapley_values,
    touch_paths,
    undo_sampling,
    uplift_areas,
    uplift_curve,
)
from seqbook.applications.recommendation import compare_arms
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError
from seqbook.data.experiments import run_auctions, simulate_auctions

VALUES = Path(__file__).with_name("sklift_values.json")
MONEY = st.integers(0, 10_000).map(lambda cents: cents / 100)


# hashing


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.sampled_from(["a", "b", None])), min_size=1, max_size=30))
def test_a_rows_codes_are_its_own(rows):
    table = pd.DataFrame(rows, columns=["x", "y"])
    codes = hash_codes(table, 50, crosses=[("x", "y")])
    assert codes.shape == (len(rows), 3) and codes.min() >= 1 and codes.max() < 50
    for i in range(len(rows)):
        assert (hash_codes(table.iloc[[i]], 50, crosses=[("x", "y")])[0] == codes[i]).all()


def test_the_same_value_of_two_columns_has_two_codes():
    table = pd.DataFrame({"seen": range(200), "bought": range(200)})
    codes = hash_codes(table, 2**20)
    assert (codes[:, 0] != codes[:, 1]).mean() > 0.99
    assert len(np.unique(codes)) > 395  # of 400


def test_one_hot_sums_to_the_number_of_columns():
    codes = np.random.default_rng(0).integers(0, 9, (20, 4))
    matrix = one_hot(codes, 9)
    assert matrix.shape == (20, 9) and (matrix.sum(axis=1) == 4).all()
    assert all(matrix[i, c] == (codes[i] == c).sum() for i in range(20) for c in range(9))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, 9]], "from 0 to 8"),
        ([[-1, 2]], "from 0 to 8"),
        ([[1], [2, 3]], "of the form"),
        ([1, 2], "of the form"),
        ([[1.0]], "whole numbers"),
    ],
)
def test_codes_that_no_matrix_can_hold(codes, message):
    with pytest.raises(LogError, match=message):
        one_hot(codes, 9)


# networks


@pytest.fixture(scope="module")
def clicks():
    rng = np.random.default_rng(0)
    codes, history = rng.integers(1, 40, (600, 3)), rng.integers(1, 40, (600, 5, 2))
    history[rng.random((600, 5)) < 0.3] = 0
    y = (rng.random(600) < np.where(codes[:, 0] % 2, 0.6, 0.1)).astype(int)
    return codes, y, history


def network(parts, clicks, **options):
    options = {"size": 40, "dim": 4, "units": 8, "epochs": 1, "batch_size": 64} | options
    return ClickNetwork(parts, **options).fit(*clicks)


def test_a_factorisation_machine_is_its_equation(clicks):
    codes, y, _ = clicks
    model = network(PARTS[:2], (codes, y))
    tables = {w.shape[1]: w for w in model.network_.get_weights()}
    w, v = tables[1][:, 0], tables[4]
    pairs = [(0, 1), (0, 2), (1, 2)]
    logit = np.log(y.mean() / (1 - y.mean())) + w[codes].sum(axis=1)
    logit += sum((v[codes[:, j]] * v[codes[:, k]]).sum(axis=1) for j, k in pairs)
    np.testing.assert_allclose(model.predict_proba(codes)[:, 1], 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert np.abs(v).max() > 0.1  # it has learned


def test_padding_and_order_of_a_history_change_nothing(clicks):
    codes, y, history = clicks
    model = network(PARTS, clicks)
    said = model.predict_proba(codes, history)
    mixed = history[:, np.random.default_rng(1).permutation(5)]
    np.testing.assert_allclose(model.predict_proba(codes, mixed), said, atol=1e-5)
    assert np.abs(model.predict_proba(codes, 0 * history) - said).max() > 1e-4  # but it is read
    np.testing.assert_allclose(said.sum(axis=1), 1)


def test_a_network_learns_and_is_the_same_again(clicks):
    codes, y, history = clicks
    model = network(PARTS, clicks, epochs=20, learning_rate=0.02)
    p = model.predict_proba(codes, history)[:, 1]
    odd = codes[:, 0] % 2 == 1
    assert p[odd].mean() > 0.45 and p[~odd].mean() < 0.25 and abs(p.mean() - y.mean()) < 0.05
    again = network(PARTS, clicks, epochs=20, learning_rate=0.02)
    np.testing.assert_allclose(again.predict_proba(codes, history)[:, 1], p, atol=1e-4)


def test_what_a_network_refuses(clicks):
    codes, y, history = clicks
    for wrong in (y * 2, np.zeros(600), np.full(600, np.nan)):
        with pytest.raises(LogError, match="0 and 1"):
            network(PARTS[:2], (codes, wrong))
    with pytest.raises(LogError, match="one for each"):
        network(PARTS[:2], (codes[:5], y))
    with pytest.raises(LogError, match="same size"):
        network(PARTS[:2], (codes + 1, y))
    with pytest.raises(LogError, match="choose among"):
        network((), clicks)
    with pytest.raises(LogError, match="give"):
        network(PARTS, (codes, y, history[:, :, 0]))


# sampling and delay


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1))
def test_undoing_a_sample_keeps_order_and_odds(p, q, kept):
    low, high = sorted(undo_sampling([p, q], kept))
    assert 0 <= low <= high <= 1 and (low == undo_sampling([min(p, q)], kept)[0])
    if 1e-6 < p < 1 - 1e-6:
        there = undo_sampling([p], kept)[0]
        assert there / (1 - there) == pytest.approx(kept * p / (1 - p))


@pytest.mark.parametrize("kept", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(kept):
    with pytest.raises(LogError, match="share above 0"):
        undo_sampling([0.5], kept)


def late_purchases(seed=0, n=20_000, mean=3.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1))
    q = 1 / (1 + np.exp(1.5 - x[:, 0]))
    delay = np.where(rng.random(n) < q, rng.exponential(mean, n), np.inf)
    waited = rng.uniform(0.5, 8, n)
    return x, np.where(delay <= waited, delay, np.nan), waited, q


def test_late_purchases_are_counted_before_they_come():
    x, delay, waited, q = late_purchases()
    model = DelayedClassifier(LogisticRegression(C=np.inf), rounds=40).fit(x, delay, waited)
    assert model.delay_ == pytest.approx(3, rel=0.1)
    assert np.abs(model.predict_proba(x)[:, 1] - q).mean() < 0.02
    hasty = LogisticRegression(C=np.inf).fit(x, ~np.isnan(delay)).predict_proba(x)[:, 1]
    assert hasty.mean() < 0.75 * q.mean()


def test_who_has_waited_for_ever_needs_no_correction():
    x, delay, waited, _ = late_purchases(n=2000)
    model = DelayedClassifier(LogisticRegression(C=np.inf)).fit(x, delay, waited + 1e6)
    plain = LogisticRegression(C=np.inf).fit(x, ~np.isnan(delay))
    np.testing.assert_allclose(model.predict_proba(x), plain.predict_proba(x), atol=1e-3)


def test_the_rounds_end_where_the_delay_stands_still():
    x, delay, waited, _ = late_purchases(n=5000)
    model = DelayedClassifier(LogisticRegression(C=np.inf)).fit(x, delay, waited)
    longer = DelayedClassifier(LogisticRegression(C=np.inf), rounds=200, tolerance=0).fit(x, delay, waited)
    assert model.rounds_ < 50 and longer.rounds_ == 200
    assert model.delay_ == pytest.approx(longer.delay_, rel=0.02)


def test_delays_that_cannot_be():
    x, delay, waited, _ = late_purchases(n=100)
    model = DelayedClassifier(LogisticRegression())
    for wrong, message in [
        (delay + 9, "at least the delay"),
        (delay - 9, "at least 0"),
        (0 * delay, "not all 0"),
        (delay[:5], "for each of 100 rows"),
    ]:
        with pytest.raises(LogError, match=message):
            model.fit(x, wrong, waited)
    with pytest.raises(LogError, match="one round"):
        DelayedClassifier(LogisticRegression(), rounds=0).fit(x, delay, waited)


# uplift


def pilot(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    X, treated = rng.normal(size=(n, 3)), rng.random(n) < 0.4
    effect = 1 + 2 * X[:, 0]
    return X, treated, 3 * X[:, 1] + treated * effect + rng.normal(size=n), effect


@pytest.mark.parametrize("learner", ["t", "x"])
def test_learners_find_a_linear_effect(learner):
    X, treated, y, effect = pilot()
    said = UpliftLearner(learner, LinearRegression()).fit(X, treated, y).predict(X)
    assert np.abs(said - effect).mean() < 0.15


@pytest.mark.parametrize("learner", ["s", "t", "x"])
def test_small_trees_order_the_effect(learner):
    X, treated, y, effect = pilot()
    model = UpliftLearner(learner).fit(X, treated, y)
    assert np.corrcoef(model.predict(X), effect)[0, 1] > 0.8
    np.testing.assert_array_equal(UpliftLearner(learner).fit(X, treated, y).predict(X), model.predict(X))


def test_learners_agree_with_econml():
    peers = pytest.importorskip("econml.metalearners", reason="pip install 'seqbook[uplift]'")
    X, treated, y, _ = pilot(500)
    for learner, peer in {
        "s": peers.SLearner(overall_model=LinearRegression()),
        "t": peers.TLearner(models=LinearRegression()),
        "x": peers.XLearner(models=LinearRegression(), propensity_model=LogisticRegression(C=1e-12)),
    }.items():
        ours = UpliftLearner(learner, LinearRegression()).fit(X, treated, y).predict(X)
        theirs = peer.fit(y, treated.astype(int), X=X).effect(X)
        np.testing.assert_allclose(ours, np.ravel(theirs), atol=1e-5)


def test_the_forest_finds_the_effect_or_says_what_it_needs():
    X, treated, y, effect = pilot(2000)
    try:
        import econml  # noqa: F401
    except ImportError:
        with pytest.raises(LogError, match=r"seqbook\[uplift\]"):
            UpliftLearner("forest").fit(X, treated, y)
    else:
        said = UpliftLearner("forest").fit(X, treated, y).predict(X)
        assert said.shape == (2000,) and np.corrcoef(said, effect)[0, 1] > 0.8


def test_curves_are_those_of_scikit_uplift():
    for case in json.loads(VALUES.read_text(encoding="utf-8")):
        curve = uplift_curve(case["outcome"], case["treated"], case["score"])
        n = len(case["score"])
        for name in ("qini", "uplift"):
            ends, gains = map(np.array, case[name])
            ours = np.interp(ends / n, curve["share"], curve[name])
            known = np.isfinite(gains)
            np.testing.assert_allclose(ours[known] * n, gains[known], atol=1e-9, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_areas_depend_on_the_order_alone(seed, factor):
    rng = np.random.default_rng(seed)
    y, treated, score = rng.normal(size=60), rng.random(60) < 0.5, rng.normal(size=60)
    assume(0 < treated.sum() < 60)
    areas = uplift_areas(y, treated, score)
    for name, area in uplift_areas(y, treated, np.exp(score * factor)).items():
        assert area == pytest.approx(areas[name])
    assert uplift_areas(y, treated, np.zeros(60)) == pytest.approx({"qini": 0, "auuc": 0})


def test_a_random_order_has_no_area_and_the_true_one_a_large_one():
    X, treated, y, effect = pilot(20_000)
    areas = [uplift_areas(y, treated, np.random.default_rng(s).random(len(y)))["auuc"] for s in range(30)]
    assert abs(np.mean(areas)) < 3 * np.std(areas) / 30**0.5
    assert uplift_areas(y, treated, effect)["auuc"] > 8 * np.std(areas)


def test_what_a_pilot_must_not_be():
    X, treated, y, _ = pilot(50)
    for wrong in (
        (X, np.ones(50), y),
        (X, treated, np.full(50, np.nan)),
        (X[:9], treated, y),
        (X, treated * 2, y),
    ):
        with pytest.raises(LogError):
            UpliftLearner("t").fit(*wrong)
    with pytest.raises(LogError, match="text"):
        UpliftLearner("t").fit(np.full((50, 1), "red"), treated, y)
    with pytest.raises(LogError, match="one score for each"):
        uplift_curve(y, treated, np.where(treated, np.nan, 1.0))


# bandits


@pytest.mark.parametrize("way", EXPLORE)
def test_bandits_find_the_best_arm(way):
    for seed in range(5):
        rng, bandit = np.random.default_rng(seed), LinearBandit(3, 2, way, seed=seed)
        shown = []
        for _ in range(400):
            x = np.column_stack([np.ones(10), rng.choice([-1.0, 1], 10)])
            arm = bandit.choose(x)
            chance = np.array([0.3, 0.3 + 0.25, 0.3 - 0.25])[arm] * (x[:, 1] > 0) + 0.3 * (x[:, 1] < 0)
            bandit.learn(x, arm, rng.random(10) < chance)
            shown.append((arm == 1)[x[:, 1] > 0].mean() if (x[:, 1] > 0).any() else np.nan)
        assert np.nanmean(shown[200:]) > 0.6, (way, seed)


def test_thompson_chooses_as_often_as_an_arm_may_be_the_best():
    bandit = LinearBandit(2, 1, "thompson", explore=0.5)
    bandit.learn(np.ones((30, 1)), np.repeat([0, 1], [10, 20]), np.repeat([0.4, 0.6], [10, 20]))
    mean = bandit.b[:, 0] / bandit.A[:, 0, 0]
    spread = 0.5 * np.sqrt((1 / bandit.A[:, 0, 0]).sum())
    share = (bandit.choose(np.ones((40_000, 1))) == 1).mean()
    assert share == pytest.approx(norm.cdf((mean[1] - mean[0]) / spread), abs=0.01)


@pytest.mark.parametrize("way", ["ucb", "epsilon"])
def test_no_arm_is_preferred_before_the_first_reward(way):
    bandit = LinearBandit(4, 1, way, explore=0.0)
    shares = np.bincount(bandit.choose(np.ones((4000, 1))), minlength=4) / 4000
    np.testing.assert_allclose(shares, 0.25, atol=0.04)
    bandit.learn([[1.0]], [2], [1.0])
    assert (bandit.choose(np.ones((50, 1))) == 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": 1}, "2 arms"),
        ({"arms": 2.5}, "2 arms"),
        ({"columns": 0}, "columns 0"),
        ({"ridge": 0}, "ridge 0"),
        ({"explore": -1}, "explore -1"),
        ({"explore": np.nan}, "explore nan"),
        ({"way": "softmax"}, "choose one of"),
    ],
)
def test_bandits_that_cannot_be(options, message):
    with pytest.raises(LogError, match=message):
        LinearBandit(**{"arms": 3, "columns": 2} | options)


@pytest.mark.parametrize(
    ("x", "arms", "rewards", "message"),
    [
        ([[1.0, 0]], [-1], [1], "from 0 to 2"),
        ([[1.0, 0]], [3], [1], "from 0 to 2"),
        ([[1.0, 0]], [1.0], [1], "whole numbers"),
        ([[1.0, 0, 0]], [1], [1], r"give \(n, 2\)"),
        ([[np.nan, 0]], [1], [1], "missing values"),
        ([[1.0, 0]], [1], [np.nan], "without missing"),
        ([[1.0, 0]], [1, 2], [1], "as many"),
    ],
)
def test_what_a_bandit_does_not_learn(x, arms, rewards, message):
    bandit = LinearBandit(3, 2)
    with pytest.raises(LogError, match=message):
        bandit.learn(x, arms, rewards)
    assert (bandit.b == 0).all()


# budgets


@st.composite
def markets(draw):
    curves = {}
    for name in range(draw(st.integers(1, 4))):
        points = draw(st.lists(st.tuples(st.floats(0.1, 50), st.floats(-20, 100)), min_size=1, max_size=6))
        curves[name] = pd.DataFrame(points, columns=["spend", "profit"])
    low = {name: draw(st.floats(0, 0.3)) * curve["spend"].max() for name, curve in curves.items()}
    budget = sum(low.values()) + draw(st.floats(0, 100))
    return curves, budget, low


def gain(curves, spend):
    return sum(
        np.interp(spend[name], *concave_hull(*c[["spend", "profit"]].to_numpy().T))
        for name, c in curves.items()
    )


@settings(max_examples=150, deadline=None)
@given(markets(), st.integers(0, 10**6))
def test_no_other_share_of_the_budget_is_better(market, seed):
    curves, budget, low = market
    best = allocate_budget(curves, budget, lowest=low)
    most = {name: curve["spend"].max() for name, curve in curves.items()}
    assert best.spend.sum() <= budget * (1 + 1e-12) and best.shadow_price >= 0
    for name in curves:
        assert low[name] <= best.spend[name] <= most[name] * (1 + 1e-12)
    assert best.profit == pytest.approx(gain(curves, best.spend), abs=1e-6)
    rng = np.random.default_rng(seed)
    for _ in range(20):  # other shares that keep the limits
        room = {name: (most[name] - low[name]) * rng.random() for name in curves}
        scale = min(1, (budget - sum(low.values())) / max(sum(room.values()), 1e-12))
        assert gain(curves, {name: low[name] + scale * room[name] for name in curves}) <= best.profit + 1e-6


@settings(max_examples=80, deadline=None)
@given(markets(), st.floats(0, 30))
def test_more_budget_is_never_worse_and_worth_less_and_less(market, more):
    curves, budget, low = market
    one, other = (allocate_budget(curves, b, lowest=low) for b in (budget, budget + more))
    assert other.profit >= one.profit - 1e-7
    assert other.shadow_price <= one.shadow_price + 1e-7
    assert other.profit <= one.profit + more * one.shadow_price + 1e-6  # concave: below its tangent


@settings(max_examples=80, deadline=None)
@given(markets(), st.floats(1.01, 5))
def test_a_campaign_that_pays_more_gets_no_less(market, factor):
    curves, budget, low = market
    dearer = curves | {0: curves[0].assign(profit=factor * curves[0]["profit"].clip(lower=0))}
    curves = curves | {0: curves[0].assign(profit=curves[0]["profit"].clip(lower=0))}
    one, other = (allocate_budget(c, budget, lowest=low) for c in (curves, dearer))
    assert other.spend[0] >= one.spend[0] - 1e-6


def test_shares_agree_with_a_solver_of_smooth_programmes():
    scale, worth, budget = np.array([3.0, 8, 5]), np.array([10.0, 14, 6]), 9.0
    grid = np.linspace(0, 30, 3001)
    curves = {
        k: pd.DataFrame({"spend": grid, "profit": worth[k] * (1 - np.exp(-grid / scale[k]))})
        for k in range(3)
    }
    smooth = minimize(
        lambda s: -(worth * (1 - np.exp(-s / scale))).sum(),
        np.full(3, budget / 3),
        bounds=[(0, 30)] * 3,
        constraints={"type": "eq", "fun": lambda s: budget - s.sum()},
    )
    best = allocate_budget(curves, budget)
    np.testing.assert_allclose(best.spend, smooth.x, atol=0.02)
    assert best.profit == pytest.approx(-smooth.fun, abs=1e-3)
    slopes = worth / scale * np.exp(-best.spend.to_numpy() / scale)
    np.testing.assert_allclose(slopes, best.shadow_price, rtol=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(MONEY, MONEY), min_size=1, max_size=30))
def test_a_hull_is_concave_and_above_its_points(points):
    spend, profit = np.array(points).T
    assume(spend.max() > 0)
    x, y = concave_hull(spend, profit)
    assert x[0] == y[0] == 0 and (np.diff(x) > 0).all() and x[-1] == spend.max()
    if len(x) > 2:
        slopes = np.diff(y) / np.diff(x)
        assert (np.diff(slopes) <= 1e-6 * (1 + np.abs(slopes[:-1]))).all()
    inside = spend > 0
    assert (np.interp(spend[inside], x, y) >= profit[inside] - 1e-6 * (1 + profit[inside])).all()


@pytest.mark.parametrize(
    ("curve", "budget", "limits", "message"),
    [
        ({"spend": [1], "profit": [np.nan]}, 1, {}, "finite points"),
        ({"spend": [-1, 2], "profit": [1, 2]}, 1, {}, "at least 0"),
        ({"spend": [0], "profit": [1]}, 1, {}, "one above 0"),
        ({"spend": [], "profit": []}, 1, {}, "one above 0"),
        ({"spend": [1], "profit": ["much"]}, 1, {}, "needs numbers"),
        ({"spend": [1], "profit": [1]}, -1, {}, "budget of -1"),
        ({"spend": [1], "profit": [1]}, np.inf, {}, "budget of inf"),
        ({"spend": [1], "profit": [1]}, 1, {"lowest": {"a": 2}}, "fit together"),
        ({"spend": [1], "profit": [1]}, 1, {"highest": {"b": 2}}, "the campaigns are"),
        ({"spend": [1], "profit": [1]}, 1, {"lowest": {"a": -1}}, "from 0"),
    ],
)
def test_what_no_budget_can_be_shared_by(curve, budget, limits, message):
    with pytest.raises(LogError, match=message):
        allocate_budget({"a": pd.DataFrame(curve)}, budget, **limits)
    with pytest.raises(LogError):
        allocate_budget({}, 1)


@pytest.mark.parametrize(
    ("spend", "profit"), [([1, 2], [1]), ([1], [np.nan]), ([-1, 1], [1, 1]), ([0], [1]), ([], []), (1, 1)]
)
def test_points_that_are_no_curve(spend, profit):
    with pytest.raises(LogError, match="a curve needs"):
        concave_hull(spend, profit)


# bids


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 23), st.floats(0, 5), st.floats(0, 5))
def test_bids_never_exceed_the_value_and_fall_with_what_was_spent(one, other, hour, mu, strength):
    values = pd.Series([0.5, 2.0], index=[7, 3])
    bids = paced_bids(values, 10.0, np.arange(1, 25), mu, strength)
    slots = pd.DataFrame(
        {"auction_id": [3, 7], "timestamp": pd.Timestamp("2024-05-01") + pd.Timedelta(hours=hour)}
    )
    less, more = (bids(slots, 10 * spent) for spent in sorted((one, other)))
    assert (more <= less + 1e-12).all() and (less <= [2.0, 0.5]).all() and (more >= 0).all()


def test_slots_without_a_value_are_refused():
    bids = paced_bids(pd.Series([1.0, 2], [1, 2]), 10, np.ones(24))
    slots = pd.DataFrame({"auction_id": [1, 3], "timestamp": pd.Timestamp("2024-05-01")})
    with pytest.raises(LogError, match="no value"):
        bids(slots, 0)
    with pytest.raises(LogError, match="two values"):
        paced_bids(pd.Series([1.0, 2], [1, 1]), 10, np.ones(24))


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 20), st.integers(0, 99))
def test_a_paced_budget_is_never_exceeded(auctions, budget, seed):
    rng = np.random.default_rng(seed)
    values = pd.Series(rng.uniform(0, 0.1, len(auctions.slots)), auctions.slots["auction_id"])
    bids = paced_bids(values, budget, rng.uniform(0.1, 1, 24), 0.5)
    assert run_auctions(auctions, bids, budget)["cost"].sum() <= budget


@pytest.fixture(scope="module")
def auctions():
    shop = simulate_shop(n_users=1500, seed=2)
    return simulate_auctions(shop, "2024-03-01", 1, horizon="1d")


# attribution


def paths_of(seed, n=200):
    rng = np.random.default_rng(seed)
    path = [tuple(rng.choice(list("abc"), rng.integers(1, 5))) for _ in range(n)]
    return pd.DataFrame({"path": path, "purchase": rng.random(n) < 0.3})


@pytest.mark.parametrize("rule", RULES)
def test_rules_share_out_all_purchases_and_no_more(rule):
    for seed in range(5):
        paths = paths_of(seed)
        credit = attribute(paths, rule)
        assert credit.sum() == pytest.approx(paths["purchase"].sum()) and (credit >= -1e-9).all()
        renamed = paths.assign(
            path=paths["path"].map(lambda p: tuple({"a": "c", "b": "b", "c": "a"}[c] for c in p))
        )
        assert attribute(renamed, rule)["c"] == pytest.approx(credit["a"])  # names do not matter


def test_the_shapley_value_of_counts_is_an_equal_share():
    paths = paths_of(1)
    equal = pd.Series(0.0, list("abc"))
    for path in paths.loc[paths["purchase"], "path"]:
        equal[list({*path})] += 1 / len({*path})
    np.testing.assert_allclose(attribute(paths, "shapley"), equal)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=15, max_size=15))
def test_shapley_is_the_mean_over_all_orders(worths):
    names = "abcd"
    groups = [frozenset(n for k, n in enumerate(names) if code >> k & 1) for code in range(1, 16)]
    worth = dict(zip(groups, worths, strict=True)) | {frozenset(): 0}
    mean = pd.Series(0.0, list(names))
    for order in permutations(names):
        for k, name in enumerate(order):
            mean[name] += (worth[frozenset(order[: k + 1])] - worth[frozenset(order[:k])]) / 24
    np.testing.assert_allclose(shapley_values(names, worth.get), mean, atol=1e-9)


def test_removal_agrees_with_walks_through_the_chain():
    paths, rng, n = paths_of(2), np.random.default_rng(0), 40_000
    steps = {}
    for path, bought in paths.itertuples(index=False):
        for one, after in zip(("start", *path), (*path, "buy" if bought else "none"), strict=True):
            steps.setdefault(one, []).append(after)

    def share_that_buys(without=None):
        bought = 0
        for _ in range(n):
            here = "start"
            while here in steps and here != without:
                here = steps[here][rng.integers(len(steps[here]))]
            bought += here == "buy"
        return bought / n

    whole = share_that_buys()
    lost = pd.Series({c: 1 - share_that_buys(c) / whole for c in "abc"})
    np.testing.assert_allclose(
        attribute(paths, "removal") / paths["purchase"].sum(), lost / lost.sum(), atol=0.02
    )


def test_touches_after_the_purchase_have_no_part_in_it():
    moments = pd.to_datetime(["2024-01-03", "2024-01-01", "2024-01-05", "2024-01-02"])
    touches = pd.DataFrame({"user_id": [1, 1, 1, 2], "timestamp": moments, "channel": list("bacd")})
    outcomes = pd.DataFrame(
        {
            "user_id": [1, 2, 3],
            "purchase": [True, False, True],
            "bought_at": pd.to_datetime(["2024-01-04", None, "2024-01-04"]),
        }
    )
    paths = touch_paths(touches, outcomes).set_index("user_id")
    assert paths["path"].to_dict() == {1: ("a", "b"), 2: ("d",)} and paths["purchase"].tolist() == [
        True,
        False,
    ]


def test_touches_that_have_no_outcome():
    touches = pd.DataFrame({"user_id": [1], "timestamp": pd.Timestamp("2024-01-01"), "channel": ["a"]})
    outcomes = pd.DataFrame({"user_id": [1, 2], "purchase": False, "bought_at": pd.NaT})
    assert len(touch_paths(touches, outcomes)) == 1
    for wrong in (outcomes[1:], pd.concat([outcomes, outcomes])):
        with pytest.raises(LogError, match="one row for each"):
            touch_paths(touches, wrong)
    with pytest.raises(LogError, match="'channel'"):
        touch_paths(touches.drop(columns="channel"), outcomes)
    with pytest.raises(LogError, match="'bought_at'"):
        touch_paths(touches, outcomes.drop(columns="bought_at"))


# holdouts


def test_a_holdout_of_shoppers_is_a_comparison_of_two_arms():
    rng = np.random.default_rng(0)
    out = rng.random(5000) < 0.2
    y = rng.normal(size=5000) - out
    arms, effect = compare_arms(y, ~out), holdout_effect(y, out)
    assert effect.value == pytest.approx(arms.value)
    assert effect.high == pytest.approx(arms.high, abs=2e-3)  # Student's t of many is normal


def test_the_interval_of_a_holdout_covers_the_truth():
    held, rng = 0, np.random.default_rng(0)
    for _ in range(400):
        out = rng.random(200) < 0.3
        low, high = holdout_effect(rng.normal(1 - 0.5 * out), out)[1:]
        held += low < 0.5 < high
    assert 0.92 < held / 400 < 0.98


def test_so_does_that_of_a_few_regions():
    held, rng = 0, np.random.default_rng(0)
    for _ in range(400):
        region = np.repeat(np.arange(30), rng.integers(5, 60, 30))
        out = np.isin(region, rng.choice(30, 6, replace=False))
        y = rng.normal(size=30)[region] + rng.normal(size=len(region)) - 0.5 * out
        low, high = holdout_effect(y, out, region)[1:]
        held += low < 0.5 < high
    assert 0.92 < held / 400 < 0.985


def test_regions_widen_the_interval():
    rng = np.random.default_rng(1)
    region = np.repeat(np.arange(40), 50)
    out = np.isin(region, rng.choice(40, 12, replace=False))
    y = rng.normal(size=40)[region] + rng.normal(size=2000)
    alone, whole = (holdout_effect(y, out, groups) for groups in (None, region))
    assert alone.value == pytest.approx(whole.value)
    assert whole.high - whole.low > 3 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("outcome", "out", "groups", "message"),
    [
        ([1, np.nan, 1, 0], [0, 0, 1, 1], None, "without missing"),
        ([1, 0, 1], [0, 0, 1, 1], None, "as many"),
        ([1, 0, 1, 0], [0, 0, 0, 0], None, "some of both"),
        ([1, 0, 1, 0], [0, 0, 0, 1], None, "fewer than two"),
        ([1, 0, 1, 0], [0, 0, 1, 1], [1, 2, 3, 3], "fewer than two"),
        ([1, 0, 1, 0], [0, 0, 1, 1], [1, 2, 2, 3], "partly"),
        ([1, 0, 1, 0], [0, 0, 1, 1], [1, 2, None, 3], "without missing"),
    ],
)
def test_holdouts_that_tell_nothing(outcome, out, groups, message):
    with pytest.raises(LogError, match=message):
        holdout_effect(outcome, out, groups)
