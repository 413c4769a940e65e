"""Churn: published figures, integrals and brute force, decisions within their limits, bad input."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import linprog
from scipy.special import gammaln
from sklearn.base import BaseEstimator, ClassifierMixin
from statsmodels.duration.api import SurvfuncRight

from seqbook.applications.churn import (
    BGNBD,
    GROWING,
    REWARDS,
    DiscreteSurvival,
    GammaGamma,
    ParetoNBD,
    alert_list,
    arm_chances,
    change_points,
    churn_report,
    customer_table,
    draw_value,
    drift_table,
    hazard_rows,
    offer_values,
    play_pilots,
    psi,
    reasons,
    return_times,
    rfm_segments,
    silences,
    tier_chances,
    win_back,
)
from seqbook.data.datasets import ShopModel, load_cdnow, simulate_shop
from seqbook.data.events import LogError
from seqbook.data.tasks import Churn
from seqbook.evaluation.reports import ReportExistsError
from seqbook.models.classical import make_classifier

CUTOFF = "2024-03-01"


@pytest.fixture(scope="module")
def log():
    return simulate_shop(n_users=500, days=120, seed=2).events


@pytest.fixture(scope="module")
def customers(log):
    return customer_table(log, CUTOFF, behavior=None)


def nonsense_from(log, cutoff):
    """The log with everything from the cutoff on given to others, later, at other prices."""
    late = log["timestamp"] >= cutoff
    future = log[late].sample(frac=1.5, replace=True, random_state=0)
    ids = np.random.default_rng(0).permutation(future["user_id"])
    return pd.concat([log[~late], future.assign(user_id=ids, behavior="buy", price=99.0)])


# Lifetimes


@pytest.mark.parametrize(
    "model, published, log_likelihood",
    [
        (BGNBD, [0.243, 4.414, 0.793, 2.426], -9582.4),
        (ParetoNBD, [0.553, 10.578, 0.606, 11.669], -9595.0),
    ],
)
def test_cdnow_gives_the_published_parameters(real_data, model, published, log_likelihood):
    """Fader, Hardie and Lee (2005), tables 2 and 3: 2,357 customers, 39 weeks."""
    customers = customer_table(load_cdnow(real_data("CDNOW_sample.txt.gz")), "1997-10-01")
    assert len(customers) == 2357
    found = model().fit(customers)
    assert np.allclose(found.params_, published, rtol=2e-3)
    assert abs(found.log_likelihood_ - log_likelihood) < 0.1


def test_cdnow_gives_the_published_gamma_gamma(real_data):
    """Fader and Hardie (2013): 946 customers who bought again."""
    customers = customer_table(load_cdnow(real_data("CDNOW_sample.txt.gz")), "1997-10-01")
    assert (customers["frequency"] > 0).sum() == 946
    assert np.allclose(GammaGamma().fit(customers).params_, [6.25, 3.74, 15.44], rtol=5e-3)


@pytest.mark.parametrize("params", [(0.6, 10.0, 0.7, 12.0), (0.6, 12.0, 0.7, 10.0), (2.0, 3.0, 1.4, 3.0)])
@pytest.mark.parametrize("x, recency, T", [(0, 0.0, 20.0), (3, 15.0, 20.0), (9, 2.0, 30.0)])
def test_pareto_nbd_is_the_integral_over_the_moment_of_loss(params, x, recency, T):
    r, alpha, s, beta = params
    model = ParetoNBD()
    both, there, lost = model._stories(params, *(np.array([value], float) for value in (x, recency, T)))
    integral = quad(lambda y: s / (alpha + y) ** (r + x) / (beta + y) ** (s + 1), recency, T, epsabs=0)[0]
    by_hand = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta)
    assert np.isclose(both[0], by_hand)
    assert np.isclose(there[0], -(r + x) * np.log(alpha + T) - s * np.log(beta + T))
    assert np.isclose(lost[0], np.log(integral), rtol=1e-6)


@pytest.mark.parametrize("model", [BGNBD, ParetoNBD])
def test_expected_purchases_are_the_mean_of_the_draws(model, customers):
    fitted, some = model().fit(customers), customers.head(40)
    draws = fitted.draw(some, t=6, n=20_000)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - fitted.expected(some, 6)) < 5 * error + 1e-9).all()
    assert (draws >= 0).all() and np.issubdtype(draws.dtype, np.integer)


@pytest.mark.parametrize("model", [BGNBD, ParetoNBD])
def test_what_those_still_there_buy_does_not_depend_on_their_silence(model, customers):
    fitted, some = model().fit(customers), customers.head(40)
    there = fitted.expected(some, 6, there=True)
    assert np.allclose(fitted.p_alive(some) * there, fitted.expected(some, 6))
    silent = some.assign(recency=some["recency"] / 2)
    assert np.allclose(fitted.expected(silent, 6, there=True), there)


def test_the_expectation_of_the_bgnbd_goes_through_its_gap_at_1(customers):
    model = BGNBD().fit(customers)
    found = []
    for a in (0.999, 1.0, 1.001):
        model.params_["a"] = a
        found.append(model.expected(customers, 5))
    assert np.allclose(found[1], (found[0] + found[2]) / 2, rtol=2e-3)


@pytest.mark.parametrize("model", [BGNBD, ParetoNBD])
def test_longer_silence_never_makes_it_likelier_to_be_there(model, customers):
    fitted = model().fit(customers)
    silent = pd.DataFrame({"frequency": 5, "recency": 4.0, "T": 4.0 + np.arange(30)})
    alive = fitted.p_alive(silent)
    assert ((alive >= 0) & (alive <= 1)).all() and (np.diff(alive) < 0).all()


@pytest.mark.parametrize("model, slow", [(BGNBD, ["alpha"]), (ParetoNBD, ["alpha", "beta"])])
def test_the_unit_of_time_changes_the_rates_and_nothing_else(model, slow):
    log = simulate_shop(n_users=800, days=120, seed=2, model=ShopModel(churn=(1.0, 1 / 20))).events
    weeks, days = (customer_table(log, CUTOFF, unit=unit, behavior=None) for unit in ("7d", "1d"))
    one, other = model().fit(weeks), model().fit(days)
    assert np.allclose(other.params_[slow], 7 * one.params_[slow], rtol=0.02)
    assert np.allclose(one.p_alive(weeks), other.p_alive(days), atol=0.01)
    assert np.allclose(one.expected(weeks, 4), other.expected(days, 28), rtol=0.02, atol=1e-3)


def test_the_currency_changes_amounts_and_nothing_else(log):
    table = customer_table(log, "2024-04-20")
    one, other = GammaGamma().fit(table), GammaGamma().fit(table.assign(amount=100 * table["amount"]))
    assert np.allclose(
        other.expected(table.assign(amount=100 * table["amount"])), 100 * one.expected(table), rtol=0.01
    )


def test_a_table_of_customers_knows_nothing_of_the_future_and_of_the_order(log):
    table = customer_table(log, CUTOFF)
    pd.testing.assert_frame_equal(table, customer_table(nonsense_from(log, CUTOFF), CUTOFF))
    pd.testing.assert_frame_equal(table, customer_table(log.sample(frac=1, random_state=0), CUTOFF))
    utc = log.assign(timestamp=log["timestamp"].dt.tz_localize("UTC"))
    pd.testing.assert_frame_equal(table, customer_table(utc, CUTOFF))
    assert (table["recency"] <= table["T"]).all() and (
        (table["frequency"] == 0) == (table["recency"] == 0)
    ).all()


def test_values_are_drawn_with_their_mean_and_scale_with_the_margin(log):
    table = customer_table(log, "2024-04-20")
    purchases, spend = BGNBD().fit(table), GammaGamma().fit(table)
    draws = draw_value(purchases, spend, table, t=5, n=4000)
    expected = purchases.expected(table, 5) * spend.expected(table)
    assert abs(draws.sum(axis=1).mean() / expected.sum() - 1) < 0.1
    one, quarter = (draw_value(purchases, spend, table, t=5, n=10, margin=m) for m in (1.0, 0.25))
    assert np.allclose(quarter * 4, one)
    assert (draw_value(purchases, spend, table, t=0, n=5) == 0).all()


# Silence and survival


def test_silences_are_those_of_a_loop(log):
    found = silences(log, CUTOFF, behavior="cart")
    rows, end = [], pd.Timestamp(CUTOFF) - pd.Timedelta(days=1)
    some = log[(log["timestamp"] < CUTOFF) & (log["behavior"] == "cart")]
    for user, events in some.groupby("user_id"):
        days = sorted(set(events["timestamp"].dt.floor("D")))
        for day, following in zip(days, [*days[1:], None], strict=True):
            rows.append((user, day, ((following or end) - day).days, following is not None))
    expected = pd.DataFrame(rows, columns=found.columns)
    assert (found["days"] == expected["days"]).all() and (found["ended"] == expected["ended"]).all()
    assert (found["start"] == expected["start"]).all() and (found["user_id"] == expected["user_id"]).all()


def test_times_to_return_are_those_of_a_loop_and_look_no_further(log):
    examples = Churn("7d").examples(log, ["2024-02-10", CUTOFF])
    until = pd.Timestamp("2024-03-20")
    found = return_times(examples, until)
    for i in range(0, len(examples), 23):
        mine = log.loc[
            (log["user_id"] == examples.ids[i]) & (log["timestamp"] >= examples.cutoff[i]), "timestamp"
        ]
        first = min(mine.min(), until) if len(mine) else until
        assert np.isclose(found["days"][i], (first - examples.cutoff[i]) / pd.Timedelta(days=1))
        assert found["returned"][i] == (first < until)
    later = Churn("7d").examples(nonsense_from(log, until), ["2024-02-10", CUTOFF])
    pd.testing.assert_frame_equal(found, return_times(later, until))


spells = st.lists(st.tuples(st.floats(0, 40), st.booleans()), min_size=1, max_size=30)


@given(spells)
@settings(max_examples=60, deadline=None)
def test_each_spell_is_at_risk_until_it_ends_or_is_censored(spells):
    times, edges = pd.DataFrame(spells, columns=["days", "returned"]), [0, 7, 14, 30]
    rows = hazard_rows(times, edges)
    for i, (days, returned) in enumerate(spells):
        mine = rows[rows["row"] == i]
        expected = []
        for k in range(3):
            if returned and edges[k] <= days < edges[k + 1]:
                expected.append((k, True))
            elif days >= edges[k + 1]:
                expected.append((k, False))
        assert list(zip(mine["interval"], mine["returned"], strict=True)) == expected


class ByInterval(ClassifierMixin, BaseEstimator):
    """Learns the share of ones in each interval, and nothing else."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        self.share_ = pd.Series(y).groupby(X["interval"].to_numpy()).mean()
        return self

    def predict_proba(self, X):
        share = self.share_[X["interval"]].to_numpy()
        return np.column_stack([1 - share, share])


def test_without_features_discrete_survival_is_kaplan_meier_at_its_edges():
    rng = np.random.default_rng(0)
    times = pd.DataFrame({"days": rng.integers(1, 5, 400) - 0.5, "returned": True})
    X = pd.DataFrame({"one": np.ones(400)})
    found = DiscreteSurvival(ByInterval(), edges=(0, 1, 2, 3)).fit(X, times).survival(X.head(2))
    km = SurvfuncRight(times["days"], times["returned"]).surv_prob[:3]
    assert np.allclose(found, [km, km])


# Decisions


@st.composite
def campaigns(draw):
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    number = st.floats(-5, 20).map(lambda v: round(v, 2))
    benefit = np.array(draw(st.lists(st.lists(number, min_size=m, max_size=m), min_size=n, max_size=n)))
    price = st.floats(0, 9).map(lambda v: round(v, 2))
    cost = np.array(draw(st.lists(st.lists(price, min_size=m, max_size=m), min_size=n, max_size=n)))
    return benefit, cost, draw(st.floats(0, 40))


@given(campaigns(), st.data())
@settings(max_examples=150, deadline=None)
def test_no_plan_breaks_its_limits(campaign, data):
    benefit, cost, budget = campaign
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=benefit.size, max_size=benefit.size)))
    allowed = allowed.reshape(benefit.shape)
    plan = win_back(benefit, cost, budget, allowed)
    made = plan["offer"].notna().to_numpy()
    assert plan["cost"].sum() <= budget + 1e-9
    assert (plan["gain"] >= -1e-12).all() and (plan.loc[~made, ["benefit", "cost", "gain"]] == 0).all().all()
    for i in np.flatnonzero(made):
        j = int(plan["offer"].iloc[i])
        assert (
            allowed[i, j] and plan["benefit"].iloc[i] == benefit[i, j] and plan["cost"].iloc[i] == cost[i, j]
        )


@given(campaigns())
@settings(max_examples=100, deadline=None)
def test_a_plan_is_within_one_step_of_the_best(campaign):
    """The relaxed linear programme bounds every plan from above."""
    benefit, cost, budget = campaign
    n, m = benefit.shape
    gain = benefit - cost
    one_each = np.kron(np.eye(n), np.ones(m))
    best = linprog(
        -gain.ravel(), A_ub=np.vstack([one_each, cost.ravel()]), b_ub=[*np.ones(n), budget], bounds=(0, 1)
    )
    plan = win_back(benefit, cost, budget)["gain"].sum()
    step = max(gain.max(), 0)
    assert -best.fun - step - 1e-6 <= plan <= -best.fun + 1e-6


@given(campaigns(), st.floats(0, 20))
@settings(max_examples=100, deadline=None)
def test_a_larger_budget_never_gains_less_and_a_coin_is_worth_less(campaign, more):
    benefit, cost, budget = campaign
    small, large = win_back(benefit, cost, budget), win_back(benefit, cost, budget + more)
    assert large["gain"].sum() >= small["gain"].sum() - 1e-9
    assert large.attrs["price"] <= small.attrs["price"] + 1e-9


@given(campaigns(), st.floats(0, 5))
@settings(max_examples=100, deadline=None)
def test_without_a_limit_each_gets_the_best_and_dearer_offers_are_made_less(campaign, more):
    benefit, cost, _ = campaign
    plan, dearer = win_back(benefit, cost), win_back(benefit, cost + more)
    assert np.allclose(plan["gain"], np.maximum((benefit - cost).max(axis=1), 0))
    assert plan.attrs["price"] == 0
    assert not (dearer["offer"].notna() & plan["offer"].isna()).any()


@given(campaigns(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_names_decide_and_not_the_order(campaign, random):
    benefit, cost, budget = campaign
    customers, offers = (
        [f"{kind}{i}" for i in range(n)] for kind, n in zip("co", benefit.shape, strict=True)
    )
    benefit, cost = (pd.DataFrame(table, customers, offers) for table in (benefit, cost))
    allowed = pd.Series([random.random() < 0.7 for _ in customers], customers)
    plan = win_back(benefit, cost, budget, allowed)
    rows, columns = random.sample(customers, len(customers)), random.sample(offers, len(offers))
    shuffled = win_back(benefit, cost.loc[rows, columns], budget, allowed[rows])
    pd.testing.assert_frame_equal(plan, shuffled)
    assert plan.loc[~allowed, "offer"].isna().all()
    price = cost.iloc[0]
    one, other = (win_back(benefit, each, budget) for each in (price, price[columns]))
    pd.testing.assert_frame_equal(one, other)


def test_nobody_is_in_two_pilots_and_arms_differ_by_lot_alone():
    shop = simulate_shop(n_users=900, days=120, seed=2)
    asked = Churn("7d", active_within="30d").examples(shop.events, ["2024-02-01", CUTOFF])
    rows, pilot = play_pilots(shop, asked, REWARDS, later="14d", seed=3)
    assert pd.Index(rows.ids).is_unique and len(rows) == len(pilot)
    assert len(set(rows.cutoff)) == 2 and set(pilot["arm"]) == {0, 1, 2, 3}
    assert pilot["arm"].value_counts(normalize=True).between(0.15, 0.35).all()
    assert (pilot.loc[pilot["arm"] == 0, "cost"] == 0).all() and (
        pilot.loc[pilot["arm"] > 0, "cost"] > 0
    ).all()
    again = play_pilots(shop, asked[::-1], REWARDS, later="14d", seed=3)
    mine = pilot.set_axis(rows.ids).sort_index()
    pd.testing.assert_frame_equal(mine, again[1].set_axis(again[0].ids).sort_index())
    x = pd.DataFrame({"one": np.random.default_rng(0).normal(size=len(pilot))})
    benefit, cost = offer_values(x, pilot, x.head(5), REWARDS, margin=0.3)
    assert benefit.shape == cost.shape == (5, 3) and (cost > 0).all().all()
    with pytest.raises(LogError, match="row by row"):
        arm_chances(x.head(9), pilot, x)


def test_equal_customers_share_a_budget_to_the_last_coin():
    plan = win_back(np.full((100, 1), 3.0), 1.0, budget=37)
    assert plan["cost"].sum() == 37 and plan["offer"].notna().sum() == 37


def test_names_of_customers_and_offers_stay():
    benefit = pd.DataFrame({"coupon": [5.0, 0.0], "points": [1.0, 2.0]}, index=["ann", "bob"])
    plan = win_back(benefit, pd.Series({"coupon": 1.0, "points": 1.0}))
    assert plan["offer"].to_dict() == {"ann": "coupon", "bob": "points"}


# Members


def test_segments_do_not_depend_on_the_order_and_prefer_the_lively(customers):
    found = rfm_segments(customers)
    pd.testing.assert_frame_equal(
        found, rfm_segments(customers.sample(frac=1, random_state=0)).loc[found.index]
    )
    lively = customers.assign(frequency=customers["frequency"].max(), recency=customers["T"]).head(1)
    more = rfm_segments(pd.concat([customers, lively.set_axis(["x"])]))
    assert more.loc["x", "segment"] == "champion"


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=20),
    st.lists(st.floats(1, 99), min_size=1, max_size=4, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_tiers_sum_to_one_and_an_amount_at_the_edge_is_inside(money, edges):
    edges = sorted(edges)
    chances = tier_chances(np.array(money)[:, None], edges)
    assert chances.shape == (1, len(edges) + 1) and np.isclose(chances.sum(), 1)
    assert tier_chances(np.array([[edges[0]]]), edges)[0, 1] == 1


# Watch

numbers = st.lists(st.floats(-50, 50), min_size=1, max_size=60)


@given(numbers, numbers)
@settings(max_examples=100, deadline=None)
def test_psi_is_never_negative_and_nothing_moved_is_zero(before, after):
    assert psi(before, after) >= 0 and psi(before, before) == 0


@given(*[st.lists(st.integers(-50, 50), min_size=1, max_size=60)] * 2)
@settings(max_examples=60, deadline=None)
def test_psi_does_not_depend_on_the_scale_of_the_numbers(before, after):
    moved = psi(np.array(before) * 4 + 8, np.array(after) * 4 + 8)
    assert np.isclose(moved, psi(before, after))


def test_psi_sees_missing_values_and_empty_columns():
    rng = np.random.default_rng(0)
    usual = rng.normal(size=1000)
    assert psi(usual, np.where(rng.random(1000) < 0.5, np.nan, usual)) > 0.25
    assert np.isfinite(psi(np.full(10, np.nan), usual)) and psi(np.full(10, np.nan), np.full(20, np.nan)) == 0


def test_drift_is_named_where_it_is():
    rng = np.random.default_rng(0)
    before = pd.DataFrame(rng.normal(size=(2000, 3)), columns=list("abc"))
    after = pd.DataFrame(rng.normal(size=(2000, 3)), columns=list("abc")).assign(b=lambda t: t["b"] + 1)
    table = drift_table(before, after)
    assert table.index[0] == "b" and table["verdict"].to_dict() == {"b": "drift", "a": "quiet", "c": "quiet"}
    assert table.loc["b", "p_value"] < 1e-6 < table.loc["a", "p_value"]
    names = {"a": "buy_count_all", "b": "event_tenure"}
    grown = drift_table(before.rename(columns=names), after.rename(columns=names), without=GROWING)
    assert grown.index.tolist() == ["c"]


def test_a_step_in_a_stream_is_found_soon_after_it_and_not_before():
    rng = np.random.default_rng(0)
    stream = np.concatenate([rng.random(3000) < 0.3, rng.random(3000) < 0.1])
    found = change_points(stream)
    assert len(found) and 3000 <= found[0] < 3600
    assert len(change_points(rng.random(6000) < 0.3)) == 0


def test_alerts_are_in_the_order_of_the_money_at_stake():
    risk = pd.Series([0.9, 0.5, 0.2, 0.8], list("abcd"))
    found = alert_list(risk, pd.Series({"a": 1.0, "b": 10.0, "c": 100.0}), least=0.3)
    assert found.index.tolist() == ["b", "a"] and found["at_stake"].tolist() == [5.0, 0.9]
    assert alert_list(risk, pd.Series({"a": 1.0}), most=0).empty
    why = pd.Series({"d": "of d", "c": "of c", "b": "of b", "a": "of a"})
    assert alert_list(risk, pd.Series({"b": 1.0}), why)["why"].tolist() == ["of b"]


def test_reasons_name_the_feature_that_decides():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"noise": rng.normal(size=2000), "silence": rng.normal(size=2000)})
    model = make_classifier("lightgbm", n_estimators=30).fit(X, (X["silence"] > 0).astype(int))
    high, low = (reasons(model, pd.DataFrame({"noise": [0.0], "silence": [s]}), k=1)[0] for s in (2.0, -2.0))
    assert re.fullmatch(r"silence 2 \(usually 2; \+\d\.\d\)", high)
    assert not low.startswith("silence")


def test_reasons_count_long_times_in_days():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"event_recency": rng.uniform(0, 500, 2000)})
    model = make_classifier("lightgbm", n_estimators=30).fit(X, (X["event_recency"] > 240).astype(int))
    X.loc[0, "event_recency"] = 480.0
    assert reasons(model, X)[0].startswith("event_recency 20 days (usually 10.")


# The report


def test_the_report_is_one_page_that_fetches_nothing_and_comes_out_the_same(log, tmp_path):
    found = churn_report(log, tmp_path / "one.html", horizon="14d", most=7)
    again = churn_report(log, tmp_path / "two.html", horizon="14d", most=7)
    pd.testing.assert_frame_equal(found, again)
    page = (tmp_path / "one.html").read_text()
    assert len(found) == 7 and found["at_stake"].is_monotonic_decreasing
    for word in ("Alerts", "Segments", "Calibration", "Inputs now against the training", str(found.index[0])):
        assert word in page
    assert "event_tenure</td>" not in page.split("Inputs now against the training")[1]
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    with pytest.raises(ReportExistsError):
        churn_report(log, tmp_path / "one.html", horizon="14d")


@pytest.mark.parametrize("lacking", ["price", "buy"])
def test_a_log_without_money_has_alerts_by_risk(log, lacking, tmp_path):
    poor = log.drop(columns=["price", "quantity"]) if lacking == "price" else log[log["behavior"] != "buy"]
    found = churn_report(poor, tmp_path / "page.html", horizon="14d")
    assert (found["value"] == 1).all() and found["risk"].is_monotonic_decreasing
    assert "Segments" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda log, out: churn_report(log, out, horizon="soon"), "horizon is"),
        (lambda log, out: churn_report(log, out, horizon="400d"), "longer than the log"),
        (
            lambda log, out: churn_report(log.assign(user_id=1), out, horizon="14d"),
            "are of one user_id",
        ),
        (lambda log, out: silences(log, "2023-01-01"), "no event before"),
        (lambda log, out: customer_table(log, CUTOFF, behavior="gift"), "'gift'"),
        (lambda log, out: customer_table(log, "soon"), "is no time"),
        (lambda log, out: BGNBD().fit(pd.DataFrame()), "lacks"),
        (lambda log, out: GammaGamma().fit(customer_table(log, CUTOFF).assign(amount=np.nan)), "prices"),
        (lambda log, out: hazard_rows(pd.DataFrame({"days": [1.0], "returned": [True]}), [0, 0]), "rising"),
        (lambda log, out: win_back([[1.0, np.nan]], 1.0), "finite"),
        (lambda log, out: win_back([[1.0], [2.0]], 1.0, allowed=[True]), "do not fit"),
        (lambda log, out: win_back([["a"]], 1.0), "do not fit"),
        (lambda log, out: win_back([[1.0]], 1.0, budget="5"), "budget is '5'"),
        (lambda log, out: win_back(pd.DataFrame([[1.0]] * 2, list("aa")), 1.0), "names 'a' twice"),
        (lambda log, out: win_back(pd.DataFrame({"x": [1.0]}), pd.Series({"y": 1.0})), "lacks 1 of"),
        (
            lambda log, out: win_back([[1.0]] * 2, 1.0, allowed=pd.Series({0: True, 2: True})),
            "lacks 1 of",
        ),
        (lambda log, out: win_back([[1.0]], 1.0, allowed=["no"]), "do not fit"),
        (lambda log, out: tier_chances(np.ones((2, 2)), [5, 1]), "rising"),
        (lambda log, out: tier_chances(np.ones(2), [1, 5]), "finite table"),
        (lambda log, out: rfm_segments(customer_table(log, CUTOFF).drop(columns="amount")), "lacks"),
        (lambda log, out: GammaGamma().fit(customer_table(log, CUTOFF).drop(columns="amount")), "lacks"),
        (
            lambda log, out: BGNBD().fit(customer_table(log, CUTOFF)).draw(customer_table(log, CUTOFF), 5, 0),
            "n is 0",
        ),
        (
            lambda log, out: DiscreteSurvival(ByInterval()).fit(
                pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"days": [1.0], "returned": [True]})
            ),
            "2 rows, times 1",
        ),
        (lambda log, out: psi([1.0], [1.0], bins=1), "at least 2"),
        (lambda log, out: change_points([1.0], delta=2), "delta is 2"),
        (lambda log, out: alert_list(pd.Series([0.5]), pd.Series([-1.0])), "negative"),
        (lambda log, out: alert_list(pd.Series([0.5]), pd.Series([1.0]), ["a", "b"]), "2 texts"),
        (lambda log, out: draw_value(None, None, None, t=5, margin=30), "not percent"),
        (lambda log, out: alert_list(pd.Series([0.5]), pd.Series([1.0, 2.0], [0, 0])), "names 0 twice"),
        (lambda log, out: drift_table(pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]})), "lacks"),
        (lambda log, out: change_points([np.inf]), "infinite"),
        (lambda log, out: alert_list(pd.Series([np.nan]), pd.Series([1.0])), "outside 0 to 1"),
    ],
)
def test_bad_input_is_named(log, call, message, tmp_path):
    with pytest.raises(LogError, match=message):
        call(log, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
