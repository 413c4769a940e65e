"""Baselines, classical models, networks and fused ones side by side, on real logs and the simulated shop.

Finished fits are kept in a folder, so that a run that was stopped goes on. See README.md for the protocol.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from real_logs import DATA, days_of_taobao, examples_of_spend, read
from results import kept, run_parts
from shoppers_intention import FILE, SETTINGS, features
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier

from seqbook.data.datasets import load_shoppers_intention, simulate_shop
from seqbook.data.features import FeatureBuilder
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import Purchase, RollingSplit, TimeSplit
from seqbook.evaluation.metrics import compare_models
from seqbook.evaluation.reports import compare, comparison_table
from seqbook.models.classical import (
    CountsClassifier,
    MajorityClassifier,
    ModelPipeline,
    Preparation,
    make_classifier,
    make_regressor,
    save_model,
)
from seqbook.models.fusion import (
    AverageClassifier,
    AverageRegressor,
    OnSequences,
    StackedClassifier,
    StackedRegressor,
)
from seqbook.models.networks import SequenceClassifier, SequenceRegressor

METRICS = {  # the first one says which single model is the best
    "taobao": ["roc_auc", "average_precision", "log_loss"],
    "shop": ["roc_auc", "average_precision", "log_loss"],
    "cdnow": ["rmse", "mae", "gini"],
    "shoppers": ["roc_auc", "average_precision", "log_loss"],
}
RUNS = Path(__file__).parent / "runs" / "comparison"
IN_TIME = TimeSplit(test_size=0.3)  # the later cutoffs of the training part give the weights


def classifiers(seed: int, epochs: int, fields: tuple) -> dict:
    """Baselines, classical models and networks, by the names of the table."""
    how = {"seed": seed, "epochs": epochs, "learning_rate": 5e-3, "progress": False}
    encoder = SequenceEncoder(fields, max_length=50)
    windows = FeatureBuilder(families=("frequency", "interval"), seed=seed)
    return {
        "majority": OnSequences(MajorityClassifier()),
        "counts": OnSequences(CountsClassifier()),
        "logistic": make_classifier("logistic", inputs="features", seed=seed),
        "boosting": make_classifier("lightgbm", inputs="features", seed=seed),
        "n-grams": make_classifier("logistic", inputs="ngrams", seed=seed),
        "GRU": OnSequences(SequenceClassifier("gru", **how), encoder),
        "CNN": OnSequences(SequenceClassifier("cnn", **how), encoder),
        "GRU with features": OnSequences(SequenceClassifier("gru", **how), encoder, windows),
    }


def fused_classifiers(single: dict) -> dict:
    members = [(name, single[name]) for name in ("logistic", "boosting", "n-grams", "GRU with features")]
    return {
        "fused, equal weights": AverageClassifier(members),
        "fused, fitted weights": AverageClassifier(members, "fitted", cv=IN_TIME),
        "fused, stacked": StackedClassifier(members, cv=IN_TIME),
    }


def taobao(options) -> dict:
    """Who buys on the next day: the last days, each after the days before it."""
    examples = days_of_taobao(read(options.data, "taobao"))
    single = classifiers(options.seed, options.epochs, ("behavior", "log_gap", "log_age", "hour"))
    splits = RollingSplit(n_splits=options.days, step="1d")
    found = compared("taobao", single | fused_classifiers(single), examples, splits, options)
    return main_table("taobao", found)


class Truth(ClassifierMixin, BaseEstimator):
    """What the simulation knows of a purchase in the next week."""

    def __init__(self, users: int, seed: int):
        self.users, self.seed = users, seed

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        self.truth_ = simulate_shop(n_users=self.users, seed=self.seed).truth
        return self

    def predict_proba(self, X):
        p = np.empty(len(X))
        for cutoff in np.unique(X.cutoff):
            known = self.truth_.purchase_probability(cutoff, "7d").set_index("user_id")["probability"]
            p[X.cutoff == cutoff] = known.loc[X.ids[X.cutoff == cutoff]]
        return np.column_stack([1 - p, p])


def shop(options) -> dict:
    """Who buys in the next week in the simulated shop, beside the best possible."""
    examples = Purchase("7d").examples(simulate_shop(n_users=options.users, seed=options.seed).events)
    single = classifiers(options.seed, options.epochs, ("behavior", "log_gap", "log_age"))
    models = single | fused_classifiers(single) | {"best possible": Truth(options.users, options.seed)}
    found = compared("shop", models, examples, RollingSplit(n_splits=2), options)
    area = found.scores[found.scores["metric"] == "roc_auc"].set_index("model")["value"]
    gap = (area["best possible"] - area.drop("best possible")).map("{:.3f}".format).rename("gap")
    missing = {"shop: what is missing to the best possible AUC": gap.reset_index()}
    return main_table("shop", found) | missing


def cdnow(options) -> dict:
    """Who spends how much in the next 90 days."""
    examples, splitter = examples_of_spend("cdnow", read(options.data, "cdnow"))
    encoder = SequenceEncoder(("log_gap", "log_age", "price_bucket"), max_length=50)
    network = SequenceRegressor("gru", seed=options.seed, epochs=options.epochs, progress=False)
    names = ("mean", "rfm", "ridge", "two-part", "tweedie", "lightgbm")
    single = {name: make_regressor(name, inputs="features", seed=options.seed) for name in names}
    single["GRU"] = OnSequences(network, encoder)
    members = [(name, single[name]) for name in ("rfm", "two-part", "tweedie", "lightgbm", "GRU")]
    fused = {
        "fused, equal weights": AverageRegressor(members),
        "fused, fitted weights": AverageRegressor(members, "fitted", cv=TimeSplit()),  # the last cutoff alone
        "fused, stacked": StackedRegressor(members, cv=TimeSplit()),
    }
    return main_table("cdnow", compared("cdnow", single | fused, examples, splitter, options))


def compared(part: str, models: dict, examples, splits, options):
    """The comparison with the best single model."""
    how = {"folder": options.folder / part, "seed": options.seed, "n_jobs": 1, "metric": METRICS[part][0]}
    single = {
        name: model for name, model in models.items() if "fused" not in name and name != "best possible"
    }
    best = compare(single, examples, splits, n_resamples=100, **how).baseline
    found = compare(models, examples, splits, baseline=best, n_resamples=options.resamples, **how)
    for note in found.notes:
        print(f"  {part}: {note}")
    return found


def main_table(part: str, found) -> dict:
    """The table of a comparison by its caption."""
    n = sum(len(test) for test in found.tests.values())
    caption = f"{part}: {found.protocol['task']['asked']}; {n:,} test examples at {len(found.tests)} splits"
    return {caption: found.table(METRICS[part]).reset_index(names="model")}


def shoppers(options) -> dict:
    """Online Shoppers Intention: a table of visits, out of fold."""
    visits, label = load_shoppers_intention(options.data / FILE)
    X, y = features(visits), label.to_numpy().astype(int)
    models = table_models(options.seed)
    folds = list(StratifiedKFold(options.folds, shuffle=True, random_state=options.seed).split(X, y))
    answers, costs = {}, {}
    for name, model in models.items():
        cells = [visit_fold(model, X, y, fold, options.folder / "shoppers") for fold in folds]
        answers[name] = np.concatenate([cell["answer"] for cell in cells])
        costs[name] = pd.DataFrame(cells)[["fit (s)", "score (s)", "kB"]].mean()
    told = y[np.concatenate([test for _, test in folds])]
    return shoppers_table(answers, told, pd.DataFrame(costs).T.round(2), options)


def shoppers_table(answers: dict, y, costs: pd.DataFrame, options) -> dict:
    single = [name for name in answers if "fused" not in name]
    best = max(single, key=lambda name: roc_auc_score(y, answers[name]))
    found = compare_models(answers, y, baseline=best, n_resamples=options.resamples, seed=options.seed)
    table = comparison_table(found[found["metric"].isin(METRICS["shoppers"])])
    area = found[found["metric"] == "roc_auc"].set_index("model")
    table["against " + best] = [
        f"{row.difference:+.4f} ({row.difference_low:+.4f} to {row.difference_high:+.4f}), {row.verdict}"
        if row.difference == row.difference
        else ""
        for row in area.loc[table.index].itertuples()
    ]
    caption = f"shoppers: a visit that ends in a purchase; {len(y):,} visits, {options.folds} folds"
    return {caption: table.join(costs).reset_index(names="model").astype(str)}


def table_models(seed: int) -> dict:
    """Models of a table; the network is a dense one, since a visit is one row and no sequence."""
    single = {
        "majority": DummyClassifier(strategy="prior"),
        "logistic": make_classifier("logistic", seed=seed, C=1.0),
        "naive-bayes": make_classifier("naive-bayes", seed=seed),
        "forest": make_classifier("forest", seed=seed, min_samples_leaf=5),
        "boosting": make_classifier("lightgbm", seed=seed, **SETTINGS),
        "dense network": ModelPipeline(
            [
                ("prepare", Preparation("scaled")),
                ("model", MLPClassifier((64, 32), alpha=1e-2, early_stopping=True, random_state=seed)),
            ]
        ),
    }
    members = [(name, single[name]) for name in ("logistic", "forest", "boosting", "dense network")]
    cv = StratifiedKFold(5, shuffle=True, random_state=seed)  # visits know no users and no order in time
    return single | {
        "fused, equal weights": AverageClassifier(members),
        "fused, fitted weights": AverageClassifier(members, "fitted", cv=cv),
        "fused, stacked": StackedClassifier(members, cv=cv),
    }


def visit_fold(model, X, y, fold, folder: Path) -> dict:
    """What a model says of a fold, and its costs; kept in a file."""

    def result():
        train, test = fold
        start = time.perf_counter()
        fitted = clone(model).fit(X.iloc[train], y[train])
        middle = time.perf_counter()
        said = fitted.predict_proba(X.iloc[test])[:, 1]
        took = {"fit (s)": middle - start, "score (s)": time.perf_counter() - middle}
        return {"answer": said.tolist(), **took, "kB": kilobytes(fitted)}

    return kept(folder, (model, X, y, fold), result)


def kilobytes(model) -> float:
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1000


PARTS = {"taobao": taobao, "shoppers": shoppers, "cdnow": cdnow, "shop": shop}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the published files")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished fits are kept")
    parser.add_argument("--users", type=int, default=4000, help="shoppers of the simulated shop")
    parser.add_argument("--days", type=int, default=4, help="test days of taobao")
    parser.add_argument("--folds", type=int, default=10, help="folds of Online Shoppers Intention")
    parser.add_argument("--epochs", type=int, default=20, help="of the networks, at most")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    run_parts(
        "comparison",
        PARTS,
        options,
        lambda part: {"epochs at most": options.epochs, "resamples": options.resamples},
    )


if __name__ == "__main__":
    main()
