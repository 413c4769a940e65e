"""Real logs: who buys tomorrow (Taobao), and who spends how much in 90 days (CDNOW, Online Retail).

Prints tables; see README.md for the protocol.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from results import save, show_tables
from sklearn.model_selection import GridSearchCV, GroupKFold

from seqbook.data.datasets import LOADERS
from seqbook.data.events import clean_events
from seqbook.data.features import FeatureBuilder, NGrams
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import Purchase, RollingSplit, Spend, TimeSplit
from seqbook.evaluation.metrics import compare_models, compare_regressions
from seqbook.models.classical import CountsClassifier, make_classifier, make_regressor

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
FILES = {
    "taobao": "taobao_userbehavior_sample.csv.gz",
    "cdnow": "CDNOW_master.txt.gz",
    "online_retail": "online_retail.csv.gz",
}
HORIZON = "90d"
DAY = np.timedelta64(1, "D")
TRAINING = {"cdnow": (90, 4), "online_retail": (30, 5)}  # days between training cutoffs, and how many
REGRESSORS = "linear ridge lasso two-part gamma tweedie forest boosting lightgbm".split()
SHOWN = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "mae": "MAE",
    "rmse": "RMSE",
    "wape": "WAPE",
    "bias": "bias",
    "spearman": "Spearman",
    "gini": "Gini",
}


def read(folder: Path, name: str) -> pd.DataFrame:
    """A cleaned log."""
    return clean_events(LOADERS[name](folder / FILES[name]))[0]


def days_of_taobao(log: pd.DataFrame):
    """Who buys on the next day: a question at each midnight of Beijing (16:00 UTC)."""
    midnights = pd.date_range("2017-11-25 16:00", "2017-12-02 16:00", freq="D")
    return Purchase("1d").examples(log, midnights, log_end=midnights[-1] + DAY)


def counts(train, test, seed):
    """The baseline: logistic regression on a few counts."""
    encoder = SequenceEncoder(("behavior", "log_gap", "log_age")).fit(train.fit_log())
    model = CountsClassifier().fit(encoder.encode(train), train.label)
    return {"counts": model.predict_proba(encoder.encode(test))[:, 1]}


def on_features(train, test, seed):
    """Models on one table of features; the penalty of the last is chosen by folds of training users."""
    builder = FeatureBuilder(seed=seed)
    table, asked = builder.fit_transform(train, train.label), builder.transform(test)
    models = {
        name: make_classifier(name, seed=seed) for name in ("logistic", "forest", "boosting", "lightgbm")
    }
    models["logistic, penalty chosen in the training part"] = GridSearchCV(
        make_classifier("logistic"),
        {"model__C": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]},
        scoring="neg_log_loss",
        cv=list(GroupKFold(5).split(table, groups=train.ids)),
    )
    return {
        f"features, {name}": model.fit(table, train.label).predict_proba(asked)[:, 1]
        for name, model in models.items()
    }


def on_ngrams(train, test, seed):
    """Models on runs of up to three behaviours."""
    models = {n: make_classifier(n, inputs=NGrams(), seed=seed) for n in ("naive-bayes", "logistic")}
    return {
        f"n-grams, {name}": model.fit(train, train.label).predict_proba(test)[:, 1]
        for name, model in models.items()
    }


def purchases(log: pd.DataFrame, days: int, resamples: int, seed: int) -> tuple:
    """All classifiers on the last days, each fitted anew for each day on the days before it."""
    examples, made, asked = days_of_taobao(log), [], []
    for train, test in RollingSplit(n_splits=days, step="1d").split(examples):
        parts = [way(examples[train], examples[test], seed) for way in (counts, on_features, on_ngrams)]
        made.append({name: said for part in parts for name, said in part.items()})
        asked.append(test)
    said = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
    test = examples[np.concatenate(asked)]
    found = compare_models(
        said, test.label, groups=test.ids, baseline="counts", n_resamples=resamples, seed=seed
    )
    caption = (
        f"taobao: a purchase on the next day; the last {days} days, {len(test):,} questions about "
        f"{len(np.unique(test.ids)):,} users, {test.label.mean():.1%} buy"
    )
    return caption, table_of(found, ["roc_auc", "average_precision", "log_loss"], "roc_auc")


def examples_of_spend(name: str, log: pd.DataFrame) -> tuple:
    """Examples and their splitter: the test begins at the last cutoff whose 90 days are inside the log."""
    task, (step, most) = Spend(HORIZON), TRAINING[name]
    last = task.default_cutoffs(log)[-1]
    first = last - int(HORIZON[:-1]) * DAY
    examples = task.examples(log, [last, *(first - step * DAY * np.arange(most))])
    return examples, TimeSplit(test_from=str(last))


def amounts(train, test, seed: int) -> dict:
    """What each regressor says; the table of features is made once."""
    builder = FeatureBuilder(seed=seed)
    table, asked = builder.fit_transform(train, train.label), builder.transform(test)
    said = {"rfm": make_regressor("rfm").fit(train, train.label).predict(test)}
    said["mean"] = np.full(len(test), train.label.mean())
    for name in REGRESSORS:
        some = {"max_samples": 0.3} if name == "forest" else {}  # for time: trees see 3 in 10 of the examples
        said[name] = make_regressor(name, seed=seed, **some).fit(table, train.label).predict(asked)
    return said


def spend(name: str, log: pd.DataFrame, resamples: int, seed: int) -> tuple:
    """All regressors on the test cutoff of a log."""
    examples, splitter = examples_of_spend(name, log)
    train, test = (examples[part] for part in next(splitter.split(examples)))
    said = amounts(train, test, seed)
    found = compare_regressions(
        said, test.label, groups=test.ids, baseline="rfm", n_resamples=resamples, seed=seed
    )
    caption = (
        f"{name}: spend in the 90 days from {pd.Timestamp(test.cutoff.max()):%Y-%m-%d} on; {len(train):,} "
        f"training examples at {len(np.unique(train.cutoff))} cutoffs, {len(test):,} customers, "
        f"{(test.label > 0).mean():.1%} buy, mean {test.label.mean():.2f} "
        f"(in training {train.label.mean():.2f})"
    )
    return caption, table_of(found, ["mae", "rmse", "wape", "bias", "spearman", "gini"], "mae")


def table_of(found: pd.DataFrame, metrics: list, main: str) -> pd.DataFrame:
    """A row a model, a column a metric with its interval, and the verdict on the main metric."""
    found = found.assign(cell=[cell(*row) for row in found[["value", "low", "high"]].to_numpy()])
    wide = found.pivot(index="model", columns="metric", values="cell")
    wide = wide.loc[list(dict.fromkeys(found["model"])), metrics].rename(columns=SHOWN)
    verdicts = found[found["metric"] == main].set_index("model")["verdict"]
    return wide.assign(**{f"{SHOWN[main]} against the first": verdicts}).reset_index().fillna("")


def cell(value: float, low: float, high: float) -> str:
    digits = 3 if abs(value) < 2 else 2 if abs(value) < 100 else 0
    if np.isnan(value):
        return ""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help=f"the folder of {', '.join(FILES.values())}")
    parser.add_argument("--log", choices=FILES, action="append", help="only this one; may be repeated")
    parser.add_argument("--days", type=int, default=4, help="test days of taobao")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    for name in options.log or FILES:
        log, more = read(options.data, name), (options.resamples, options.seed)
        found = purchases(log, options.days, *more) if name == "taobao" else spend(name, log, *more)
        tables = dict([found])
        show_tables(tables)
        if options.save:
            settings = {"seed": options.seed, "bootstrap samples of users": options.resamples}
            save(f"real_{name}", [], settings, tables)


if __name__ == "__main__":
    main()
