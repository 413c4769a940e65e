"""CDNOW: BG/NBD and Pareto/NBD beside the published figures, 39 weeks held out, and our models beside them.

Prints tables; see README.md for the protocol.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from results import save, show, show_tables

from seqbook.applications.churn import BGNBD, GammaGamma, ParetoNBD, customer_table, draw_value
from seqbook.data.datasets import load_cdnow
from seqbook.data.features import FeatureBuilder
from seqbook.data.tasks import Churn
from seqbook.evaluation.metrics import compare_models, compare_regressions
from seqbook.evaluation.uncertainty import coverage_table
from seqbook.models.classical import make_classifier, make_regressor

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
START, END, WEEKS = "1997-10-01", "1998-07-01", 39
PUBLISHED = {  # Fader, Hardie and Lee 2005, table 2; Fader and Hardie 2013 for the gamma-gamma
    "BG/NBD": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426, "log-likelihood": -9582.4},
    "Pareto/NBD": {"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669, "log-likelihood": -9595.0},
    "gamma-gamma": {"p": 6.25, "q": 3.74, "v": 15.44},
}
MODELS = {"BG/NBD": BGNBD, "Pareto/NBD": ParetoNBD}
LEARNED = ("1997-04-02", "1997-07-02")  # cutoffs to learn from, with a horizon of 91 days each


def parameters(models: dict) -> pd.DataFrame:
    """Estimates beside the published ones."""
    rows = []
    for name, model in models.items():
        found = model.params_.to_dict() | (
            {"log-likelihood": model.log_likelihood_} if hasattr(model, "log_likelihood_") else {}
        )
        rows += [(name, what, f"{PUBLISHED[name][what]:g}", f"{value:.4g}") for what, value in found.items()]
    return pd.DataFrame(rows, columns=["model", "parameter", "published", "found"])


def bought_later(log: pd.DataFrame, customers: pd.DataFrame) -> pd.Series:
    """Days with a purchase in the weeks held out."""
    late = log[(log["timestamp"] >= START) & (log["timestamp"] < END)]
    days = late.groupby("user_id")["timestamp"].apply(lambda times: times.dt.floor("D").nunique())
    return days.reindex(customers.index, fill_value=0)


def spent_later(log: pd.DataFrame, customers: pd.DataFrame) -> pd.Series:
    """Money in the weeks held out."""
    late = log[(log["timestamp"] >= START) & (log["timestamp"] < END)]
    money = (late["price"] * late["quantity"]).groupby(late["user_id"]).sum()
    return money.reindex(customers.index, fill_value=0.0)


def by_frequency(came: pd.Series, said: dict, customers: pd.DataFrame) -> pd.DataFrame:
    """Mean purchases in the weeks held out, by purchases before: the figure of the paper as a table."""
    groups = customers["frequency"].clip(upper=7).astype(int).rename("repeat purchases (7: or more)")
    table = pd.DataFrame({"came": came, **said}, customers.index).groupby(groups).mean().round(2)
    return table.assign(customers=groups.value_counts()).reset_index().astype(str)


def learned(log: pd.DataFrame, customers: pd.DataFrame, seed: int) -> tuple:
    """Ours: will anyone buy, and how often, learned from two earlier cutoffs and asked for 39 weeks.

    The labels of the training are known before the test begins, so their horizon is a quarter, and counts
    are scaled from 13 to 39 weeks."""
    task = Churn("91d")
    train = task.examples(log, LEARNED, log_end=START)
    test = task.examples(log, START, log_end=END)
    builder = FeatureBuilder(families=("frequency", "interval"), seed=seed).fit(train, train.label)
    X, asked = builder.transform(train), builder.transform(test)
    counts = quarter_counts(log, train)
    silent, often = {}, {}
    for name in ("logistic", "lightgbm"):
        model = make_classifier(name, seed=seed).fit(X, train.label)
        silent[name] = pd.Series(model.predict_proba(asked)[:, 1], test.ids)[customers.index].to_numpy()
    for name in ("two-part", "lightgbm"):
        model = make_regressor(name, seed=seed).fit(X, counts)
        often[name] = 3 * pd.Series(model.predict(asked), test.ids)[customers.index].to_numpy()
    return silent, often, test.label[pd.Index(test.ids).get_indexer(customers.index)]


def quarter_counts(log: pd.DataFrame, train) -> np.ndarray:
    """Days with a purchase in the 91 days after the cutoff of each example."""
    rows = []
    for cutoff in LEARNED:
        end = pd.Timestamp(cutoff) + pd.Timedelta(days=91)
        late = log[(log["timestamp"] >= cutoff) & (log["timestamp"] < end)]
        days = late.groupby("user_id")["timestamp"].apply(lambda times: times.dt.floor("D").nunique())
        ids = train.ids[train.cutoff == np.datetime64(cutoff)]
        rows.append(days.reindex(ids, fill_value=0).to_numpy(float))
    return np.concatenate(rows)


def wide(found: pd.DataFrame, metrics: dict) -> pd.DataFrame:
    """A comparison as a table of texts."""
    some = found[found["metric"].isin(metrics)]
    text = some["value"].map("{:.3f}".format) + " (" + some["low"].map("{:.3f}".format) + " to "
    some = some.assign(
        text=text + some["high"].map("{:.3f}".format) + ")", metric=some["metric"].map(metrics)
    )
    return some.pivot(index="model", columns="metric", values="text").reset_index()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with CDNOW_sample.txt.gz")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()

    log = load_cdnow(options.data / "CDNOW_sample.txt.gz")
    customers = customer_table(log, START)
    models = {name: make().fit(customers) for name, make in MODELS.items()}
    money = GammaGamma().fit(customers)
    came, spent = bought_later(log, customers), spent_later(log, customers)
    often = {name: model.expected(customers, WEEKS) for name, model in models.items()}
    rows = [
        ("customers", len(customers), ""),
        ("repeat purchases in 39 weeks", customers["frequency"].sum(), ""),
        ("purchases in the 39 weeks held out", came.sum(), ""),
    ]
    rows += [(f"{name}: forecast of them", said.sum(), "") for name, said in often.items()]
    rows += [(f"{name}: error", 100 * (said.sum() / came.sum() - 1), "%") for name, said in often.items()]

    silent, ours, label = learned(log, customers, options.seed)
    quiet = {name: (model.draw(customers, 13, n=1000) == 0).mean(axis=0) for name, model in models.items()}
    how = {"n_resamples": options.resamples, "seed": options.seed}
    churn = compare_models({**quiet, **silent}, label, baseline="BG/NBD", **how)
    last_quarter = customers["frequency"].to_numpy(float)
    naive = {"as often as before": last_quarter * WEEKS / customers["T"].to_numpy()}
    counts = compare_regressions({**often, **ours, **naive}, came, baseline="BG/NBD", **how)
    draws = draw_value(models["Pareto/NBD"], money, customers, WEEKS, n=2000, seed=options.seed)
    low, high = np.quantile(draws, [0.1, 0.9], axis=0)
    inside = coverage_table((low <= spent) & (spent <= high), size=high - low).iloc[0]
    rows += [
        ("spent in the 39 weeks held out", spent.sum(), "$"),
        ("Pareto/NBD and gamma-gamma: forecast of it", draws.mean(axis=0).sum(), "$"),
        ("customers inside their 80 % interval", 100 * inside["coverage"], "%"),
    ]
    tables = {
        "CDNOW sample: parameters": parameters({**models, "gamma-gamma": money}),
        "CDNOW sample: mean purchases in the 39 weeks held out": by_frequency(came, often, customers),
        "CDNOW sample: no purchase in the 13 weeks after the calibration": wide(
            churn, {"roc_auc": "ROC AUC", "brier": "Brier score", "log_loss": "log loss"}
        ),
        "CDNOW sample: number of purchases in the 39 weeks held out": wide(
            counts, {"mae": "MAE", "rmse": "RMSE", "bias": "bias", "spearman": "Spearman"}
        ),
    }
    rows = [(what, float(value), unit) for what, value, unit in rows]
    show(rows)
    show_tables(tables)
    if options.save:
        save("applications_churn", rows, {"resamples": options.resamples, "seed": options.seed}, tables)


if __name__ == "__main__":
    main()
