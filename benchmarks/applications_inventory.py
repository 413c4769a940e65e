"""Weekly demand on Online Retail: the 200 items that sold most before the last 8 weeks, which are held out.

Prints tables; see README.md for the protocol.
"""

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from results import save, show_tables
from sklearn.metrics import mean_pinball_loss

from seqbook.applications.inventory import (
    LagForecaster,
    arima,
    backtest,
    count_quantiles,
    croston,
    demand_kinds,
    demand_series,
    dispersion,
    ets,
    forecast_scores,
    moving_average,
    tsb,
)
from seqbook.data.datasets import load_online_retail
from seqbook.data.events import clean_events

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
HELD_OUT = 8  # weeks
FIRST = "2010-12-06"  # the first Monday of the log
LEVELS = (0.5, 0.9, 0.95)


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


def pinball(demand: pd.DataFrame, table: pd.DataFrame, names, seed: int) -> pd.DataFrame:
    """Pinball loss by total demand, and coverage; the dispersion is that of the 8 weeks before."""
    before = demand.iloc[:-HELD_OUT]
    old = backtest({name: models(seed, False)[name] for name in names}, before, 1, HELD_OUT, 1)
    quantiles = {name: count_quantiles_by_size(table[name], old, name) for name in names}
    loss = {level: LagForecaster(seed=seed, level=level) for level in LEVELS}
    direct = backtest(loss, demand, 1, HELD_OUT, 1)
    quantiles["boosting, quantile loss"] = direct[list(LEVELS)]
    rows = [
        {"model": name, **{f"{t}": cell(table["y"], q[t], t) for t in LEVELS}}
        for name, q in quantiles.items()
    ]
    return pd.DataFrame(rows)  # fmt: skip


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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    demand = demand_of(DATA / "online_retail.csv.gz", arguments.items)
    kinds = demand_kinds(demand.iloc[:-HELD_OUT])["kind"].value_counts().to_dict()
    what = f"{demand.shape[1]} items, {len(demand)} weeks from {FIRST}, {kinds}"
    at_once, _ = scores(demand, models(arguments.seed, True), HELD_OUT, 1, arguments.resamples)
    weekly, table = scores(demand, models(arguments.seed, False), 1, HELD_OUT, arguments.resamples)
    names = ["moving average, 8 weeks", "TSB", "boosting on lags"]
    tables = {
        f"Online Retail: {what}; the last {HELD_OUT} weeks forecast from one origin": at_once,
        f"The same weeks, each forecast from the week before ({HELD_OUT} origins)": weekly,
        "Pinball loss by pieces wanted, by level, of the forecasts from the week before": pinball(
            demand, table, names, arguments.seed
        ),
    }
    show_tables(tables)
    if arguments.save:
        settings = {"items": arguments.items, "resamples": arguments.resamples, "seed": arguments.seed}
        save("applications_inventory", [], settings, tables)


if __name__ == "__main__":
    main()
