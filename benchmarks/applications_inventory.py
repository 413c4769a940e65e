"""Weekly demand on Online Retail, the last 8 weeks held out; and a year of orders in several simulated shops.

Prints tables; see README.md for the protocol. A shop that was played by just this code is not played again.
"""

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from results import kept, save, show_tables, spoken
from sklearn.metrics import mean_pinball_loss

from seqbook.applications.inventory import (
    LagForecaster,
    arima,
    backtest,
    calendar_table,
    count_quantiles,
    croston,
    demand_kinds,
    demand_series,
    dispersion,
    economic_lot,
    ets,
    forecast_scores,
    horizon_sums,
    moving_average,
    quantile_policy,
    review_policy,
    stock_costs,
    tsb,
)
from seqbook.data.datasets import load_online_retail, simulate_shop
from seqbook.data.events import CART, VIEW, clean_events
from seqbook.data.experiments import demand_rate, sell
from seqbook.evaluation.uncertainty import bootstrap_interval

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
RUNS = Path(__file__).parent / "runs" / "inventory"
HELD_OUT = 8  # weeks
FIRST = "2010-12-06"  # the first Monday of the log
LEVELS = (0.5, 0.9, 0.95)
SHOP = {"n_users": 8000, "n_items": 60, "n_categories": 6, "days": 756}  # that of the chapter, other seeds
PAST, MARGIN, HOLDING, LINE = 56, 0.3, 0.02, 2.0  # weeks; shares of the price; money for an order line


def demand_of(path: Path, items: int) -> pd.DataFrame:
    """Weekly demand of the strongest items; which they are is decided before the weeks held out."""
    log = clean_events(load_online_retail(path))[0]
    demand = demand_series(log, start=FIRST)
    strongest = demand.iloc[:-HELD_OUT].sum().nlargest(items).index
    return demand[strongest]


def last_week(history, horizon):
    """What was wanted last week."""
    return moving_average(history, horizon, window=1)


def models(seed: int, slow: bool) -> dict:
    """All forecasters that one year of history allows; the last ones take minutes."""
    quick = {
        "moving average, 8 weeks": moving_average,
        "last week": last_week,
        "Croston": partial(croston, corrected=False),
        "SBA": croston,
        "TSB": tsb,
        "boosting on lags": LagForecaster(seed=seed),
    }
    return quick | ({"ETS": ets, "ARIMA, automatic": arima} if slow else {})


def timed(model, seconds: dict, name: str):
    """The same forecaster, its processor time added up."""

    def forecast(history, horizon):
        began = time.process_time()
        said = model(history, horizon)
        seconds[name] = seconds.get(name, 0) + time.process_time() - began
        return said

    return forecast


def scores(demand: pd.DataFrame, contestants: dict, horizon: int, origins: int, resamples: int) -> tuple:
    """Backtest that ends with the log, its scores as texts, and the backtest itself."""
    seconds = {}
    ready = {name: timed(model, seconds, name) for name, model in contestants.items()}
    table = backtest(ready, demand, horizon=horizon, origins=origins, step=1)
    known = demand.iloc[: len(demand) - horizon - (origins - 1)]
    found = forecast_scores(table, list(contestants), known, resamples)
    rows = [
        {
            "model": name,
            "WAPE": f"{row.wape:.3f} ({row.low:.3f} to {row.high:.3f})",
            "difference to the first": "" if np.isnan(row.difference) else (
                f"{row.difference:+.3f} ({row.difference_low:+.3f} to {row.difference_high:+.3f})"
            ),
            "bias": f"{row.bias:+.3f}",
            "MASE": f"{row.mase:.3f}",
            "processor seconds": f"{seconds[name]:.1f}",
        }
        for name, row in found.iterrows()
    ]  # fmt: skip
    return pd.DataFrame(rows), table


def pinball(demand: pd.DataFrame, table: pd.DataFrame, names, seed: int, resamples: int) -> tuple:
    """Pinball loss by total demand, and coverage; the dispersion is that of the 8 weeks before."""
    before = demand.iloc[:-HELD_OUT]
    old = backtest({name: models(seed, False)[name] for name in names}, before, 1, HELD_OUT, 1)
    quantiles = {name: count_quantiles_by_size(table[name], old, name) for name in names}
    loss = {level: LagForecaster(seed=seed, level=level) for level in LEVELS}
    direct = backtest(loss, demand, 1, HELD_OUT, 1)[list(LEVELS)].round()
    quantiles["boosting, quantile loss"] = direct
    rows = [
        {"model": name, **{f"{t}": cell(table["y"], q[t], t) for t in LEVELS}}
        for name, q in quantiles.items()
    ]
    around = quantiles["boosting on lags"]
    gaps = [{"level": f"{t}", "difference": gap(table, direct[t], around[t], t, resamples)} for t in LEVELS]
    return pd.DataFrame(rows), pd.DataFrame(gaps)


def gap(table, q, other, level, resamples) -> str:
    """Loss of one quantile less that of another, by pieces wanted, with an interval over the items."""
    y = table["y"].to_numpy()
    loss, rival = (
        np.maximum(level * (y - x), (level - 1) * (y - x)) for x in (q.to_numpy(), other.to_numpy())
    )
    found = bootstrap_interval(
        lambda a, b, y: (a - b).sum() / y.sum(),
        loss,
        rival,
        y,
        groups=table["item_id"],
        n_resamples=resamples,
    )
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def count_quantiles_by_size(mean, old, name) -> pd.DataFrame:
    """Quantiles of a negative binomial, with the dispersion of old forecasts of about this size."""
    edges = old[name].quantile([1 / 3, 2 / 3]).to_numpy()
    part, told = np.searchsorted(edges, mean), []
    for k in range(3):
        some = old[np.searchsorted(edges, old[name]) == k]
        spread = dispersion(some["y"], some[name])
        told.append(count_quantiles(mean[part == k], LEVELS, spread))
    return pd.concat(told).sort_index()


def cell(y, q, level) -> str:
    """Loss by pieces wanted, and how many weeks the quantile covers."""
    return f"{mean_pinball_loss(y, q, alpha=level) / y.mean():.3f} ({np.mean(y <= q):.0%} covered)"


class Refitted:
    """Boosting, fitted anew every four weeks."""

    def __init__(self, signals, calendar):
        self.model, self.asked = LagForecaster(signals, calendar), 0

    def __call__(self, history, horizon):
        """The forecast for the weeks after the history."""
        if self.asked % 4 == 0:
            self.model.fit(history, horizon)
        self.asked += 1
        return self.model.predict(history)


def forecasters(shop, demand: pd.DataFrame) -> dict:
    """What makes each forecaster; the last one knows the true rate."""
    log = shop.events
    signals = {what: demand_series(log, demand.columns, behavior=what) for what in (VIEW, CART)}
    days = pd.date_range(demand.index[0], periods=7 * len(demand) + 28)
    calendar = calendar_table(days, shop.promotions).resample("7D").mean()
    truth = demand_rate(shop).resample("7D").sum().set_axis(demand.columns, axis=1)

    def known(history, horizon):
        ahead = moving_average(history, horizon).index
        return truth.reindex(ahead).fillna(truth.iloc[-1])

    return {
        "moving average": lambda: moving_average,
        "TSB": lambda: tsb,
        "boosting without views, carts": lambda: Refitted({}, calendar),
        "boosting": lambda: Refitted(signals, calendar),
        "true rate": lambda: known,
    }


def as_sold(day, stock, coming, sales):
    """Order what was sold this week."""
    return sales[-7:].sum(0) if day % 7 == 6 else np.zeros(len(stock))


def four_weeks(history, stock, coming):
    """Fill up to four weeks of the mean of the last four."""
    return np.maximum(np.ceil(4 * history.iloc[-4:].mean().to_numpy() - stock - coming), 0)


def policies(shop, demand: pd.DataFrame, price: pd.Series) -> dict:
    """All rules of the chapter, made for this shop."""
    past, tau = demand.iloc[:PAST], MARGIN / (MARGIN + HOLDING)
    weeks = np.maximum(economic_lot(past.mean(), LINE, HOLDING * price) / past.mean(), 1)
    made = {"as sold (naive)": as_sold, "four weeks of cover (naive)": review_policy(four_weeks, past)}
    for name, make in forecasters(shop, demand).items():
        old = backtest({"said": lambda h, n, make=make: make()(h, n)}, past, horizon=2, origins=10)
        sums = horizon_sums(old, "said")
        spread, short = dispersion(sums["y"], sums["said"]), HOLDING * price * tau / (1 - tau)
        policy = partial(quantile_policy, past=past, dispersion=spread, shortage=short)
        made[f"{name}, quantile"] = policy(make(), holding=HOLDING * price)
        lots = {"holding": HOLDING * price * weeks, "lot": (weeks - 1) * past.mean()}
        made[f"{name}, (s, S)"] = policy(make(), **lots)
    return made


def shop_year(seed: int) -> dict:
    """Policy -> profit, share of the demand served, mean stock and order lines of a year."""
    shop = simulate_shop(**SHOP, seed=seed)
    demand, daily = (demand_series(shop.events, every=every) for every in ("7d", "1d"))
    price = shop.items.set_index("item_id")["price"][demand.columns]
    start, found = np.ceil(3 * demand.iloc[PAST - 8 : PAST].mean()), {}
    for name, policy in policies(shop, demand, price).items():
        sold = sell(daily.iloc[7 * PAST :], start, policy, lead_time=8)
        run = stock_costs(sold, price, MARGIN, HOLDING, LINE).sum()
        served = 1 - run["lost"] / run["wanted"]
        found[name] = {
            "profit": run["profit"],
            "served": served,
            "stock": run["stock"],
            "lines": run["lines"],
        }
    return found


def over_shops(values) -> str:
    """Mean over the shops with its interval, and the lowest and highest shop."""
    return f"{spoken(values, 0)}; shops {min(values):.0f} to {max(values):.0f}"


STEPS = {  # what a step is worth: the profit of one policy less that of another
    "quantile of a moving average, instead of as sold": ("moving average, quantile", "as sold (naive)"),
    "TSB instead of the moving average": ("TSB, quantile", "moving average, quantile"),
    "boosting instead of the moving average": ("boosting, quantile", "moving average, quantile"),
    "boosting instead of TSB": ("boosting, quantile", "TSB, quantile"),
    "views and carts": ("boosting, quantile", "boosting without views, carts, quantile"),
    "lots, with TSB": ("TSB, (s, S)", "TSB, quantile"),
    "lots, with boosting": ("boosting, (s, S)", "boosting, quantile"),
    "the true rate instead of boosting": ("true rate, quantile", "boosting, quantile"),
}


def money(years: list) -> tuple:
    """Policies by their gain over the naive order, and steps by their worth: means over the shops."""
    profit = pd.DataFrame([{name: run["profit"] for name, run in year.items()} for year in years])
    rows = [
        {
            "policy": name,
            "gain over as sold (money)": over_shops(profit[name] - profit["as sold (naive)"]),
            "demand served": f"{np.mean([year[name]['served'] for year in years]):.1%}",
            "mean stock (money)": f"{np.mean([year[name]['stock'] for year in years]):.0f}",
            "order lines": f"{np.mean([year[name]['lines'] for year in years]):.0f}",
        }
        for name in profit
    ]
    steps = [{"step": s, "worth (money)": over_shops(profit[a] - profit[b])} for s, (a, b) in STEPS.items()]
    return pd.DataFrame(rows), pd.DataFrame(steps)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shops", type=int, default=8, help="simulated shops, at least 2")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished shops are kept")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(101, 101 + arguments.shops)
    years = [kept(arguments.folder, (seed,), partial(shop_year, seed)) for seed in seeds]
    by_policy, steps = money(years)
    demand = demand_of(DATA / "online_retail.csv.gz", arguments.items)
    kinds = demand_kinds(demand.iloc[:-HELD_OUT])["kind"].value_counts().to_dict()
    what = f"{demand.shape[1]} items, {len(demand)} weeks from {FIRST}, {kinds}"
    at_once, _ = scores(demand, models(arguments.seed, True), HELD_OUT, 1, arguments.resamples)
    weekly, table = scores(demand, models(arguments.seed, False), 1, HELD_OUT, arguments.resamples)
    names = ["moving average, 8 weeks", "TSB", "boosting on lags"]
    losses, gaps = pinball(demand, table, names, arguments.seed, arguments.resamples)
    tables = {
        f"Online Retail: {what}; the last {HELD_OUT} weeks forecast from one origin": at_once,
        f"The same weeks, each forecast from the week before ({HELD_OUT} origins)": weekly,
        "Pinball loss by pieces wanted, by level, of the forecasts from the week before": losses,
        "Quantile loss less negative binomial around boosting on lags, by level": gaps,
        f"A year of orders in {len(years)} simulated shops; means, 95 % over the shops": by_policy,
        "What each step is worth in the same shops": steps,
    }
    show_tables(tables)
    if arguments.save:
        settings = {name: getattr(arguments, name) for name in ("items", "resamples", "seed", "shops")}
        save("applications_inventory", [], settings, tables)


if __name__ == "__main__":
    main()
