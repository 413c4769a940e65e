"""Hard tests of `seqbook.applications.inventory`: properties, peers, leaks, bad input, the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqbook.applications import inventory
from seqbook.applications.inventory import (
    LagForecaster,
    arima,
    arima_order,
    backtest,
    calendar_effects,
    calendar_table,
    count_quantiles,
    croston,
    demand_kinds,
    demand_series,
    dispersion,
    economic_lot,
    ets,
    fit_bass,
    forecast_report,
    forecast_scores,
    horizon_sums,
    lag_table,
    launch_quantiles,
    moving_average,
    order_quantities,
    quantile_policy,
    reconcile,
    review_policy,
    seasonal_naive,
    stock_costs,
    sum_matrix,
    tsb,
    uncensor,
)
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import BUY, CART, VIEW, LogError
from seqbook.data.experiments import bass_curve, daily_demand, sell
from seqbook.evaluation.reports import ReportExistsError

PEERS = json.loads(Path(__file__).with_name("statsforecast_values.json").read_text(encoding="utf-8"))
LEVELS = [0.5, 0.8, 0.9, 0.95, 0.99]


def frame(values, start="2024-01-01", every="7D") -> pd.DataFrame:
    """A demand with these rows."""
    values = np.asarray(values, float)
    values = values[:, None] if values.ndim == 1 else values
    return pd.DataFrame(values, pd.date_range(start, periods=len(values), freq=every, name="period"))


@pytest.fixture(scope="module")
def shop():
    """A small shop of 63 weeks."""
    return simulate_shop(n_users=800, n_items=12, n_categories=3, days=63 * 7 + 3, seed=5)


@pytest.fixture(scope="module")
def demand(shop):
    """Its weekly demand."""
    return demand_series(shop.events)


# ---- series


def test_the_days_of_the_shop_are_those_of_daily_demand(shop):
    ours = demand_series(shop.events, items=shop.items["item_id"], every="1d")
    assert (ours.to_numpy() == daily_demand(shop).to_numpy()[: len(ours)]).all()


def test_any_dataframe_is_a_log(shop, demand):
    assert demand_series(pa.Table.from_pandas(shop.events)).equals(demand)


def test_only_whole_periods_are_kept_and_nothing_is_lost_within(shop, demand):
    assert len(demand) == 63
    end = demand.index[-1] + pd.Timedelta("7D")
    inside = shop.events[(shop.events["behavior"] == BUY) & (shop.events["timestamp"] < end)]
    assert demand.to_numpy().sum() == inside["quantity"].sum()


@given(seed=st.integers(0, 99), n=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_counts_are_those_of_a_loop(seed, n):
    rng = np.random.default_rng(seed)
    log = pd.DataFrame(
        {
            "timestamp": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 21 * 24, n + 2), unit="h"),
            "behavior": rng.choice([BUY, VIEW], n + 2),
            "item_id": rng.choice(["a", "b", None], n + 2),
            "quantity": rng.integers(1, 4, n + 2),
        }
    )
    log.loc[0, "timestamp"], log.loc[1, "timestamp"] = (
        pd.Timestamp("2024-01-01"),
        pd.Timestamp("2024-01-21 23:00"),
    )
    for behavior in (BUY, VIEW):
        table = demand_series(log, items=["a", "b"], behavior=behavior)
        assert table.shape == (3, 2)
        for (week, item), value in table.stack().items():
            rows = log[(log["behavior"] == behavior) & (log["item_id"] == item)]
            rows = rows[(rows["timestamp"] >= week) & (rows["timestamp"] < week + pd.Timedelta("7D"))]
            assert value == (rows["quantity"].sum() if behavior == BUY else len(rows))


def test_an_item_that_is_never_sold_is_named_as_such():
    kinds = demand_kinds(frame([[0, 1], [0, 0], [0, 3]]))
    assert kinds["kind"].tolist() == ["never sold", "intermittent"]
    assert kinds["empty"].tolist() == [1.0, pytest.approx(1 / 3)]


# ---- censored demand


def test_the_chance_of_more_is_that_of_scipy():
    pieces, rate = np.meshgrid([-2.0, -1, 0, 1, 7, 40], [0, 1e-9, 0.3, 8, 500])
    np.testing.assert_array_equal(inventory._above(pieces, rate), stats.poisson.sf(pieces, rate))


def test_uncensoring_finds_the_rate_that_the_sales_hide():
    rng = np.random.default_rng(0)
    wanted = rng.poisson(4, (4000, 1))
    sales = frame(np.minimum(wanted, 4), every="1D")
    empty = wanted >= 4
    rate = uncensor(sales, empty, rounds=100).mean().item()
    assert sales.mean().item() < 3.4 and abs(rate - 4) < 0.12


def test_uncensoring_changes_only_what_was_sold_out_and_never_lowers():
    sales = frame([[3, 0], [1, 2], [0, 5]])
    empty = np.array([[True, False], [False, False], [True, True]])
    filled = uncensor(sales, empty)
    assert (filled.to_numpy()[~empty] == sales.to_numpy()[~empty]).all()
    assert (filled >= sales).all().all()
    assert uncensor(sales, np.zeros((3, 2), bool)).equals(sales)


# ---- peers


@pytest.mark.parametrize("case", PEERS["rare"])
def test_rare_demand_as_statsforecast(case):
    history = frame(case["y"])
    assert croston(history, 1, corrected=False).iloc[0, 0] == pytest.approx(case["croston"], rel=1e-4)
    assert croston(history, 1).iloc[0, 0] == pytest.approx(case["sba"], rel=1e-4)
    assert tsb(history, 1, alpha=0.2, beta=0.1).iloc[0, 0] == pytest.approx(case["tsb"], rel=1e-4)


@pytest.mark.parametrize("case", PEERS["smooth"])
def test_arima_as_statsforecast(case):
    history = frame(case["y"])
    for order, theirs in case["arima"].items():
        ours = arima(history, len(theirs), {0: tuple(int(n) for n in order.strip("()").split(","))})
        assert ours[0].to_numpy() == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("case", PEERS["smooth"][::2])  # around a level: no trend is chosen
def test_ets_as_statsforecast(case):
    assert ets(frame(case["y"]), len(case["ets"]))[0].to_numpy() == pytest.approx(case["ets"], rel=2e-3)


@pytest.mark.parametrize("case", PEERS["summed"])
def test_reconciliation_as_hierarchicalforecast(case):
    sums = sum_matrix(pd.Series(["x", "x", "y", "y", "y"], list("abcde")))
    ours = reconcile(pd.DataFrame(np.transpose(case["base"]), columns=sums.index), sums)
    assert ours.to_numpy().T == pytest.approx(np.array(case["reconciled"]), rel=1e-4)


def test_ets_follows_a_trend_and_damps_it():
    y = 20 + np.arange(60) + np.random.default_rng(0).normal(size=60)
    ahead = ets(frame(y), 12)[0].to_numpy()
    assert ahead[0] == pytest.approx(80, abs=3) and (np.diff(ahead) > 0).all()
    assert ahead[-1] < 80 + 12 and np.diff(ahead)[-1] < np.diff(ahead)[0]


def test_the_order_search_tells_noise_from_a_walk():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=200)
    assert arima_order(noise)[1] == 0 and arima_order(noise.cumsum())[1] == 1
    ar = np.zeros(300)
    for t in range(1, 300):
        ar[t] = 0.7 * ar[t - 1] + rng.normal()
    assert arima_order(ar)[0] >= 1 and arima_order(ar)[1] == 0


# ---- no forecaster sees the future


FORECASTERS = {
    "moving average": moving_average,
    "last year": seasonal_naive,
    "croston": croston,
    "tsb": tsb,
    "lags": LagForecaster(trees=20),
}


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_changed_future_changes_no_forecast(demand, name):
    changed = demand.copy()
    changed.iloc[-2:] += 50
    before, after = (backtest({"m": FORECASTERS[name]}, d, 2, 1)["m"] for d in (demand, changed))
    assert before.equals(after)
    changed.iloc[-3] += 50
    assert not before.equals(backtest({"m": FORECASTERS[name]}, changed, 2, 1)["m"]) or name == "last year"


def test_signals_of_the_future_change_no_forecast(shop, demand):
    views = demand_series(shop.events, behavior=VIEW)
    later = views.copy()
    later.iloc[-2:] *= 9
    said = [backtest({"m": LagForecaster({"views": v}, trees=20)}, demand, 2, 1)["m"] for v in (views, later)]
    assert said[0].equals(said[1])
    later.iloc[-3] *= 9
    assert not said[0].equals(backtest({"m": LagForecaster({"views": later}, trees=20)}, demand, 2, 1)["m"])


def test_the_lag_table_reads_nothing_at_or_after_the_origin(demand):
    origins = np.array([26, 40])
    changed = demand.copy()
    changed.iloc[26:] = 1e6
    assert np.array_equal(lag_table({"d": demand}, origins)[0][0], lag_table({"d": changed}, origins)[0][0])


def test_boosting_learns_a_promotion_that_the_calendar_announces():
    rng = np.random.default_rng(0)
    on = (rng.random(90) < 0.3).astype(float)
    demand = frame(rng.poisson(np.outer(1 + 2 * on[:80], [4, 8, 12, 16, 20, 24])))
    calendar = frame(on).set_axis(["promotion"], axis=1)
    table = backtest({"with": LagForecaster(calendar=calendar), "without": LagForecaster()}, demand, 1, 12)
    error = {name: (table[name] - table["y"]).abs().sum() for name in ("with", "without")}
    assert error["with"] < 0.6 * error["without"]


def test_a_quantile_of_the_whole_horizon_is_not_the_sum_of_quantiles():
    rng = np.random.default_rng(0)
    demand = frame(rng.poisson(np.tile([4.0, 8, 12, 16], (120, 1))))
    models = {"whole": LagForecaster(level=0.9, total=True), "weeks": LagForecaster(level=0.9)}
    table = backtest(models, demand, horizon=4, origins=12, step=4)
    by_horizon = table.groupby(["cutoff", "item_id"])
    sums = by_horizon[["y", *models]].sum()
    assert 0.75 < (sums["y"] <= sums["whole"]).mean() < 0.97 < (sums["y"] <= sums["weeks"]).mean()
    assert (by_horizon["whole"].nunique() == 1).all()  # an equal part each week


def test_the_same_seed_gives_the_same_forecast(demand):
    assert LagForecaster(trees=20)(demand, 2).equals(LagForecaster(trees=20)(demand, 2))


# ---- backtest


def test_origins_and_truth_lie_where_they_should(demand):
    table = backtest({"m": moving_average}, demand, horizon=3, origins=4, step=2)
    assert table["cutoff"].nunique() == 4 and table["period"].max() == demand.index[-1]
    for row in table.sample(30, random_state=0).itertuples():
        assert row.y == demand.loc[row.period, row.item_id]
        history = demand[demand.index < row.cutoff]
        assert row.m == pytest.approx(history[row.item_id].iloc[-8:].mean())
        assert row.period == row.cutoff + (row.step - 1) * pd.Timedelta("7D")


def test_scores_are_those_by_hand(demand):
    table = backtest({"m": moving_average, "zero": lambda h, n: 0 * moving_average(h, n)}, demand, 2, 3)
    scores = forecast_scores(table, ["m", "zero"], demand.iloc[:-6])
    assert scores["wape"]["m"] == pytest.approx((table["m"] - table["y"]).abs().sum() / table["y"].sum())
    assert scores["wape"]["zero"] == pytest.approx(1) and scores["bias"]["zero"] == pytest.approx(-1)
    assert (scores["low"] <= scores["wape"]).all() and (scores["wape"] <= scores["high"]).all()


# ---- quantiles


@given(mean=st.floats(0.01, 300), spread=st.floats(1, 9))
@settings(max_examples=60, deadline=None)
def test_quantiles_rise_and_hold_what_they_promise(mean, spread):
    told = count_quantiles(pd.Series([mean]), LEVELS, spread).to_numpy()[0]
    assert (np.diff(told) >= 0).all() and (told % 1 == 0).all()
    more = max(spread - 1, 1e-6)
    covered = stats.nbinom.cdf(told, mean / more, 1 / (1 + more))
    assert (covered >= np.array(LEVELS) - 1e-6).all()


def test_dispersion_finds_that_of_drawn_counts():
    rng = np.random.default_rng(0)
    mean = rng.uniform(1, 9, 20_000)
    assert dispersion(rng.poisson(mean), mean) == pytest.approx(1, abs=0.05)
    assert dispersion(rng.negative_binomial(mean / 2, 1 / 3), mean) == pytest.approx(3, rel=0.05)


def test_a_forecast_counts_once_in_the_dispersion_however_rare_its_item():
    y, mean = [2.0, 2, 2, 2, 20], [2.0, 2, 2, 2, 2]
    few = dispersion(y, mean, list("aaaab"), strength=1)["b"]
    assert few == pytest.approx((162 + 81) / 2)  # its own, and the median of 0 and 162


def test_each_item_has_its_own_dispersion_and_leans_on_the_others():
    rng = np.random.default_rng(0)
    items, mean = np.repeat(list("abc"), 400), np.full(1200, 8.0)
    y = np.where(
        items == "c", rng.negative_binomial(1, 1 / 9, 1200), rng.poisson(8, 1200)
    )  # 9 times the mean
    found = dispersion(y, mean, items)
    assert found["a"] < 1.3 and found["c"] == pytest.approx(9, rel=0.2)
    few = dispersion(y[-3:], mean[-3:], ["a", "b", "c"], strength=1e6)
    assert few.nunique() == 1 or np.ptp(few) < 1e-3
    told = count_quantiles(pd.Series([8.0, 8.0], ["c", "a"]), [0.95], found)[0.95]
    assert (
        told["c"] > told["a"]
        and told["a"] == count_quantiles(pd.Series([8.0]), [0.95], found["a"]).iloc[0, 0]
    )


def test_a_launch_matches_its_sales_by_item():
    prior, sold = pd.Series({"a": 4.0, "b": 4.0}), pd.Series({"b": 9, "a": 0})
    told = launch_quantiles(prior, 1.0, sold, 1.0, 1.0, [0.5])
    assert told.equals(launch_quantiles(prior, 1.0, [0, 9], 1.0, 1.0, [0.5]))
    assert told.loc["b", "mean"] > told.loc["a", "mean"]


# ---- orders


@st.composite
def orders(draw, least=LEVELS[0], most=LEVELS[-1]):
    """Inputs of `order_quantities` for four items, with a critical ratio within the levels."""
    ratio, holding = draw(st.floats(least, most)), draw(st.floats(0.01, 5))
    numbers = lambda low, high: draw(st.lists(st.integers(low, high), min_size=4, max_size=4))  # noqa: E731
    return {
        "stock": numbers(-5, 30),
        "coming": numbers(0, 10),
        "shortage": holding * ratio / (1 - ratio),
        "holding": holding,
        "lot": draw(st.floats(0, 10)),
        "pack": draw(st.integers(1, 12)),
    }


means = st.lists(st.floats(0, 40), min_size=4, max_size=4)
prices = st.lists(st.floats(0.5, 90), min_size=4, max_size=4)


def table_of(mean):
    return count_quantiles(pd.Series(mean, list("abcd")), LEVELS, 2.0)


def at_level(how, level):
    """The same inputs with this critical ratio."""
    return {**how, "shortage": how["holding"] * level / (1 - level)}


@given(mean=means, how=orders(), level=st.sampled_from(LEVELS))
@settings(max_examples=80, deadline=None)
def test_orders_are_whole_packs_never_negative_and_reach_the_quantile(mean, how, level):
    order = order_quantities(table_of(mean), **at_level(how, level))
    assert (order >= 0).all() and (order % how["pack"] == 0).all() and order.dtype == "int64"
    quantile = stats.nbinom.ppf(level, np.maximum(mean, 1e-9), 0.5)  # the variance is twice the mean
    position = np.add(how["stock"], how["coming"]) + order.to_numpy()
    assert (position >= quantile - 1e-6).all()
    assert (position[order > 0] < (quantile + how["lot"] + how["pack"])[order > 0] + 1e-6).all()


@given(mean=means, how=orders())
@settings(max_examples=40, deadline=None)
def test_between_two_levels_the_order_lies_between_those_of_both(mean, how):
    how, table = {**how, "lot": 0}, table_of(mean)
    k = np.searchsorted(LEVELS, how["shortage"] / (how["shortage"] + how["holding"]))
    around = LEVELS[max(k - 1, 0)], LEVELS[min(k, len(LEVELS) - 1)]
    low, high = (order_quantities(table, **at_level(how, level)) for level in around)
    order = order_quantities(table, **how)
    assert (low <= order).all() and (order <= high).all()


@given(mean=means, how=orders(), price=prices, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_each_number_goes_to_its_own_item_in_whatever_order(mean, how, price, seed):
    mix = np.random.default_rng(seed).permutation(4)
    each = {**how, "price": price, "pack": [how["pack"], 1, 2, 3]}
    each = {name: pd.Series(np.broadcast_to(value, 4), list("abcd")) for name, value in each.items()}
    mixed = {name: value.iloc[mix] for name, value in each.items()}
    mixed["stock"] = pd.concat([mixed["stock"], pd.Series({"not ordered": 5})])
    expected = order_quantities(table_of(mean), budget=300, **each)
    assert order_quantities(table_of(mean), budget=300, **mixed).equals(expected)
    by_id = {name: value.to_dict() for name, value in mixed.items()}
    assert order_quantities(table_of(mean), budget=300, **by_id).equals(expected)


@given(mean=means, how=orders(), price=prices, budget=st.floats(0, 2000), more=st.floats(0, 2000))
@settings(max_examples=80, deadline=None)
def test_the_budget_is_kept_and_more_money_never_orders_less(mean, how, price, budget, more):
    table = table_of(mean)
    small, large = (order_quantities(table, price=price, budget=b, **how) for b in (budget, budget + more))
    free = order_quantities(table, **how)
    assert small @ price <= budget and (small <= large).all() and (large <= free).all()


@given(mean=means, how=orders(0.6, 0.9), factor=st.floats(1, 1.5), extra=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_orders_move_the_right_way(mean, how, factor, extra):
    table, order = table_of(mean), order_quantities(table_of(mean), **how)
    dearer = order_quantities(table, **{**how, "shortage": factor * how["shortage"]})
    holding = order_quantities(table, **{**how, "holding": factor * how["holding"]})
    fuller = order_quantities(table, **{**how, "stock": [s + extra for s in how["stock"]]})
    wanted = order_quantities(table + extra, **how)
    assert (dearer >= order).all() and (holding <= order).all()
    assert (fuller <= order).all() and (wanted >= order).all()


@given(mean=means, how=orders(), out=st.sets(st.sampled_from("abcd")))
@settings(max_examples=40, deadline=None)
def test_no_excluded_item_is_ordered(mean, how, out):
    order = order_quantities(table_of(mean), exclude=out, **how)
    assert (order[list(out)] == 0).all()
    rest = order.index.difference(list(out))
    assert (order[rest] == order_quantities(table_of(mean), **how)[rest]).all()


@given(seed=st.integers(0, 50), short=st.floats(0.5, 20), over=st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_no_order_is_cheaper_than_the_newsvendors(seed, short, over):
    levels = np.arange(0.001, 1, 0.001)
    mean = np.random.default_rng(seed).uniform(0.5, 20)
    table = pd.DataFrame([stats.poisson.ppf(levels, mean)], ["a"], levels)
    pieces, chance = np.arange(80), stats.poisson.pmf(np.arange(80), mean)
    cost = [
        ((short * np.maximum(pieces - q, 0) + over * np.maximum(q - pieces, 0)) * chance).sum()
        for q in range(60)
    ]
    ours = order_quantities(table, shortage=short, holding=over)["a"]
    assert abs(ours - np.argmin(cost)) <= 1 and cost[ours] <= min(cost) * 1.05 + 0.05


def test_a_quantile_policy_orders_up_to_the_quantile_of_its_forecast():
    past = frame(np.tile([3.0, 8.0], (8, 1)))
    policy = quantile_policy(moving_average, past, dispersion=1.0, shortage=[9.0, 3.0], holding=1.0)
    week = np.vstack([np.zeros((6, 2)), [[3.0, 8.0]]])  # as those of the past, and nothing is sold out
    for day in range(6):
        assert (policy(day, np.array([5.0, 5]), np.zeros(2), week[: day + 1]) == 0).all()
    order = policy(6, np.array([1.0, 2]), np.array([1.0, 0]), week)
    assert np.array_equal(order, stats.poisson.ppf([0.9, 0.75], [6, 16]) - [2, 2])


def test_the_economic_lot_costs_least():
    lot = economic_lot(3.0, 2.0, 0.5)
    cost = lambda q: 2.0 * 3.0 / q + 0.5 * q / 2  # noqa: E731
    assert cost(lot) <= min(cost(lot * 0.95), cost(lot * 1.05))


def test_a_policy_sees_sales_and_its_own_empty_shelves():
    seen, past = [], frame(np.full((4, 1), 7.0))

    def decide(history, stock, coming):
        seen.append(history.copy())
        return np.array([0.0])

    days = np.ones((21, 1))
    sell(days, 3, review_policy(decide, past), lead_time=2)
    assert len(seen) == 3 and [len(h) for h in seen] == [5, 6, 7]
    assert seen[0].index[-1] == past.index[-1] + pd.Timedelta("7D")
    assert 3 < seen[0].iloc[-1, 0] < 14  # three were sold; four days were empty


def test_the_costs_of_a_year_add_up():
    sold = sell(np.full((14, 2), 2.0), [10, 100], orders=0)
    costs = stock_costs(sold, [10.0, 5.0], margin=0.5, holding=0.1, order_cost=3)
    assert costs["wanted"].tolist() == [28, 28] and costs["lost"].tolist() == [18, 0]
    assert costs["profit"][0] == pytest.approx(0.5 * 10 * 10 - 0.1 * costs["stock"][0] * 2)


# ---- hierarchy, calendar, new items


@given(seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_reconciled_forecasts_add_up_and_coherent_ones_stay(seed):
    rng = np.random.default_rng(seed)
    sums = sum_matrix(pd.Series(rng.choice(["x", "y"], 5), range(5)))
    S, variance = sums.to_numpy(), pd.Series(rng.uniform(0.1, 5, len(sums)), sums.index)
    items = rng.uniform(0, 9, (5, 4))
    coherent = pd.DataFrame((S @ items).T, columns=sums.index)
    assert np.allclose(reconcile(coherent, sums, variance), coherent)
    made = reconcile(coherent + rng.normal(size=coherent.shape), sums, variance)
    assert np.allclose(made.to_numpy().T, S @ made[list(range(5))].to_numpy().T)


def test_calendar_effects_find_those_that_were_drawn():
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=730)
    begins = days[20::40]
    promotions = pd.DataFrame({"start": begins, "end": begins + pd.Timedelta("3D")})
    X = calendar_table(days, promotions)
    rate = 100 * np.where(days.dayofweek == 5, 1.3, 1.0) * (1 + 0.5 * X["promotion"]) * np.exp(0.2 * X["cos"])
    effects = calendar_effects(pd.Series(rng.poisson(rate), days), promotions)
    assert effects.loc["promotion", "factor"] == pytest.approx(1.5, abs=0.05)
    assert effects.loc["peak of the year", "factor"] == pytest.approx(np.exp(0.2), abs=0.03)
    assert effects.loc["Saturday", "factor"] / effects.loc["Monday", "factor"] == pytest.approx(1.3, abs=0.05)
    assert (effects["low"] < effects["factor"]).all() and (effects["factor"] < effects["high"]).all()


def test_a_launch_that_was_drawn_is_found_again():
    t = 7 * (np.arange(20) + 0.5)
    drawn = np.random.default_rng(1).poisson(300 * bass_curve(t, 0.02, 0.12))
    p, q, level = fit_bass(drawn)
    assert level == pytest.approx(300, rel=0.05) and np.allclose(
        bass_curve(t, p, q), bass_curve(t, 0.02, 0.12), atol=0.05
    )


def test_launch_intervals_hold_what_they_promise():
    rng = np.random.default_rng(0)
    level = rng.gamma(4, 1.0, 4000)  # mean 4, spread 0.5
    sold, ahead = rng.poisson(1.5 * level), rng.poisson(2.0 * level)
    told = launch_quantiles(pd.Series(np.full(4000, 4.0)), 0.5, sold, 1.5, 2.0, [0.1, 0.9])
    inside = (ahead >= told[0.1]) & (ahead <= told[0.9])
    assert 0.79 < inside.mean() < 0.9 and told["mean"].mean() == pytest.approx(8, rel=0.03)
    assert ((told["mean"] - ahead) ** 2).mean() < ((8 - ahead) ** 2).mean()


# ---- bad input


GOOD = table_of([3.0, 3, 3, 3])
LOG = simulate_shop(n_users=30, days=30).events


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: order_quantities(GOOD, stock=[1, 2]), "one for each of the 4"),
        (lambda: order_quantities(GOOD, stock={"a": 1, "b": 2, "c": 3}), "lacks 1 of 4, such as .'d'"),
        (lambda: order_quantities(GOOD, coming=pd.Series([1, 2, 3, 4])), "lacks 4 of 4"),
        (lambda: order_quantities(GOOD, price=pd.Series(1, list("aabcd")), budget=9), "'a' twice"),
        (lambda: order_quantities(GOOD.set_axis(list("aacd"))), "twice"),
        (lambda: order_quantities(GOOD, pack="six"), "one for each of the 4"),
        (lambda: order_quantities(GOOD, shortage=199), "0.995, outside the levels 0.5 to 0.99"),
        (lambda: order_quantities(GOOD, shortage=1, holding=2), "0.3333, outside"),
        (lambda: order_quantities(GOOD[[0.9]], shortage=1, holding=1), "outside the levels 0.9 to 0.9"),
        (lambda: order_quantities(GOOD, stock=np.nan), "missing or infinite"),
        (lambda: order_quantities(GOOD, coming=-1), "at least 0"),
        (lambda: order_quantities(GOOD, shortage=0), "above 0"),
        (lambda: order_quantities(GOOD, pack=0), "whole number"),
        (lambda: order_quantities(GOOD, pack=1.5), "whole number"),
        (lambda: order_quantities(GOOD, budget=5), "price"),
        (lambda: order_quantities(GOOD, budget=-5, price=1), "at least 0"),
        (lambda: order_quantities(GOOD, exclude=["z"]), "without a forecast"),
        (lambda: order_quantities(-GOOD), "at least 0"),
        (lambda: order_quantities(GOOD.iloc[:, ::-1]), "rise between"),
        (lambda: count_quantiles(pd.Series([np.nan]), [0.5]), "at least 0"),
        (lambda: count_quantiles(pd.Series([1.0]), [0, 0.5]), "between 0 and 1"),
        (lambda: count_quantiles(pd.Series({"a": 1.0}), [0.5], pd.Series({"b": 2.0})), "dispersion lacks"),
        (lambda: count_quantiles(pd.Series([1.0]), [0.5], np.nan), "missing"),
        (lambda: launch_quantiles(pd.Series([4.0]), 1, 0, 0, 1, [5.0]), "between 0 and 1"),
        (lambda: launch_quantiles(pd.Series([4.0]), 1, -5, 0, 1, [0.5]), "0 or more"),
        (lambda: launch_quantiles(pd.Series({"a": 4.0}), 1, {"b": 1}, 0, 1, [0.5]), "lacks"),
        (lambda: fit_bass([1, 2, np.nan, 4]), "numbers"),
        (lambda: croston(frame([1, 2]), 1, alpha=5), "above 0 and up to 1"),
        (lambda: tsb(frame([1, 2]), 1, beta=0), "above 0 and up to 1"),
        (lambda: economic_lot(-1, 2, 1), "at least 0"),
        (lambda: economic_lot(1, 2, 0), "above 0"),
        (lambda: lag_table({"d": frame(np.ones(40))}, np.array([25, 30])), "origin 25"),
        (lambda: reconcile(pd.DataFrame([[1.0]], columns=["a"]), sum_matrix(pd.Series({"a": "x"}))), "lack"),
        (lambda: forecast_report(LOG, "x.html", shortage=0), "above 0"),
        (lambda: forecast_report(LOG, "x.html", holding=0), "above 0"),
        (lambda: forecast_report(LOG, "x.html", shortage=np.inf), "above 0"),
        (lambda: forecast_report(LOG, "x.html", origins=1, horizon=1), "at least 2"),
        (lambda: forecast_report(LOG, "x.html", stock=pd.Series({1: np.nan})), "write 0"),
        (lambda: backtest({}, frame(np.ones(5)), 4, 6), "need more"),
        (lambda: backtest({"m": lambda h, n: h.iloc[-n:] * np.nan}, frame(np.ones(9)), 1, 1), "none"),
        (lambda: reconcile(pd.DataFrame([[1.0] * 3], columns=["total", "a", "b"]),
                           sum_matrix(pd.Series({"a": "x", "b": "x"})).drop("x"),
                           pd.Series({"total": 0.0, "a": 1, "b": 1})), "variance"),
        (lambda: demand_series(pd.DataFrame()), "read_events"),
        (lambda: demand_series(LOG, every="week"), "every"),
        (lambda: demand_series(LOG, every="-7d"), "every"),
        (lambda: demand_series(LOG, every="90d"), "take shorter"),
        (lambda: uncensor(frame([1, 2]), [True, False]), "one for each"),
        (lambda: dispersion([1.0], [0.0]), "sum to 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_plain_words(call, says):
    with pytest.raises(LogError, match=says):
        call()


# ---- the report


def test_the_report_stands_alone_and_is_not_written_over(shop, tmp_path):
    path = tmp_path / "forecast.html"
    stock = pd.Series({1: 1000})
    told = forecast_report(shop.events, path, items=8, promotions=shop.promotions, stock=stock)
    page = path.read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "Forecast and order" in page
    assert len(told) == 8 and told["order"].dtype == "int64" and (told["order"] >= 0).all()
    assert told.loc[1, "order"] == 0
    with pytest.raises(ReportExistsError):
        forecast_report(shop.events, path, items=8)


def test_the_report_does_without_views_and_with_a_short_log(shop, tmp_path):
    log = shop.events[(shop.events["behavior"] == BUY) & (shop.events["timestamp"] < "2024-06-01")]
    told = forecast_report(log, tmp_path / "a.html", items=3, origins=3)
    assert len(told) == 3 and CART not in set(log["behavior"])


def test_the_report_chooses_by_the_loss_of_the_order_not_by_wape():
    demand = frame(np.random.default_rng(0).poisson(np.tile([0.3, 0.4, 0.5, 0.6], (60, 1))))
    low = lambda history, horizon: 0.2 * moving_average(history, horizon)  # noqa: E731
    scores = inventory._contest({"fair": moving_average, "too low": low}, demand, 1, 30, 0.9)[1]
    assert scores["wape"].idxmin() == "too low" and scores["pinball"].idxmin() == "fair"


def test_the_quantiles_of_the_contest_know_only_the_errors_of_earlier_origins(demand):
    sums = horizon_sums(backtest({"m": moving_average}, demand, 2, 4), "m")
    last, first = sums.copy(), sums.copy()
    when = sums.index.get_level_values("cutoff")
    last["y"] += 8 * (when == when.max())
    first["y"] += 8 * (when == when.min())
    before, unmoved, moved = (inventory._ordered(table, "m", 0.9) for table in (sums, last, first))
    assert before.equals(unmoved) and (moved >= before).all() and (moved > before).mean() > 0.5


def test_the_direct_quantiles_of_the_report_rise_with_their_level(demand):
    models = {"boosting": LagForecaster(trees=30)}
    said = models["boosting"](demand, 2)
    told = inventory._horizon_quantiles(inventory._DIRECT, models, None, demand, said, 0.93)
    assert list(told) == [0.1, 0.5, 0.9, 0.93] and list(told.index) == list(demand)
    assert (
        (np.diff(told, axis=1) >= 0).all() and (told[0.9] > said.sum()).all() and (told % 1 == 0).all().all()
    )


def test_the_stock_of_the_report_is_matched_by_id_and_added_up(shop, tmp_path):
    log = shop.events[shop.events["timestamp"] < "2024-06-01"]
    how = {"items": 4, "origins": 3, "overwrite": True}
    plain = forecast_report(log, tmp_path / "a.html", **how)
    first, second = plain.index[:2]
    stock = pd.Series([2, 1, 4], [second, first, second])
    told = forecast_report(log, tmp_path / "a.html", stock=stock, **how)
    assert told["stock"].to_dict() == {**dict.fromkeys(plain.index, 0), first: 1, second: 6}
    assert (told["order"] == (plain["order"] - told["stock"]).clip(lower=0)).all()
    path = tmp_path / "stock.csv"
    stock.rename_axis("item_id").rename("stock").to_csv(path)
    assert forecast_report(log, tmp_path / "a.html", stock=path, **how).equals(told)


def test_a_log_with_a_time_zone_has_its_own_days():
    times = pd.to_datetime(["2024-01-01 10:00", "2024-01-03 23:00", "2024-01-09 00:00"]).tz_localize(
        "Asia/Tokyo"
    )
    log = pd.DataFrame({"timestamp": times, "behavior": BUY, "item_id": "a"})
    assert demand_series(log, every="1d", start="2024-01-03").iloc[:, 0].tolist() == [1, 0, 0, 0, 0, 0, 1]
