"""Baselines, classical models, networks and fused ones side by side, on real logs and the simulated shop.

Then what pre-training on events is worth for 100 to 10,000 labels.

Finished fits are kept in a folder, so that a run that was stopped goes on. See README.md for the protocol.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from real_logs import DATA, days_of_taobao, examples_of_spend, read
from results import save, show_tables, versions
from scipy.stats import t as student
from shoppers_intention import FILE, SETTINGS, features
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import seqbook
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
    PretrainedClassifier,
    StackedClassifier,
    StackedRegressor,
    last_states,
    longest_histories,
    mask_events,
)
from seqbook.models.networks import NextEventModel, SequenceClassifier, SequenceRegressor, SequenceTagger

METRICS = {  # the first one says which single model is the best
    "taobao": ["roc_auc", "average_precision", "log_loss"],
    "shop": ["roc_auc", "average_precision", "log_loss"],
    "cdnow": ["rmse", "mae", "gini"],
    "shoppers": ["roc_auc", "average_precision", "log_loss"],
}
CODE = [path.read_bytes() for path in (Path(__file__), *sorted(Path(seqbook.__file__).parent.rglob("*.py")))]
RUNS = Path(__file__).parent / "runs" / "comparison"
AGAINST = {  # what the gain of each way of pre-training is measured against: the same network from scratch
    "causal, fine-tuned": "from scratch",
    "causal, old layers at a tenth": "from scratch",
    "causal, frozen": "from scratch",
    "masked, fine-tuned": "from scratch, both ways",
    "masked, frozen": "from scratch, both ways",
}
LABELS = (100, 300, 1000, 3000, 10_000)
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


def kept(folder: Path, what: tuple, result) -> dict:
    """The result that was kept of just this, by this code and these versions; else made now, and kept."""
    path = folder / f"{joblib.hash((what, CODE, versions()))}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(result()))
        draft.replace(path)
    return json.loads(path.read_text())


class Transfer:
    """Networks that were pre-trained on the events of the training part, and ways to use them."""

    def __init__(self, options):
        self.options, self.units = options, 32
        examples = Purchase("7d").examples(simulate_shop(n_users=options.users, seed=options.seed + 1).events)
        past, test = next(TimeSplit().split(examples))
        self.known, self.asked = examples[past], examples[test]
        fields = ("behavior", "log_gap", "price_bucket")
        self.encoder = SequenceEncoder(fields, max_length=40).fit(self.known.fit_log())
        self.silence = FeatureBuilder(names=("event_recency",))
        self.sources, self.tables = {}, {}

    def source(self, name: str):
        """The causal or the masked network, fitted when it is first asked for."""
        if name not in self.sources:
            how = {"units": self.units, "epochs": 15, "learning_rate": 5e-3, "progress": False}
            X = self.encoder.encode(longest_histories(self.known))
            if name == "causal":
                model = NextEventModel("gru", end=False, **how).fit(X)
            else:
                model = SequenceTagger("bigru", causal=False, **how).fit(*mask_events(X))
            self.sources[name] = FrozenEstimator(model)
        return self.sources[name]

    def rows(self, n: int, draw: int) -> np.ndarray:
        """Labelled examples drawn at random, with two buyers at least."""
        if n > len(self.known):
            sys.exit(f"there are {len(self.known):,} examples to draw {n:,} labels from; raise --users")
        for turn in range(1000):
            rows = np.random.default_rng([n, draw, turn]).permutation(len(self.known))[:n]
            if self.known.label[rows].sum() >= 2:
                return rows
        sys.exit("there are too few buyers to draw from; raise --users")

    def tuned(self, rows, draw, source=None, encoder="gru", **more) -> float:
        epochs = int(np.clip(20_000 // len(rows), 4, 20))
        network = PretrainedClassifier(
            encoder,
            source and self.source(source),
            units=self.units,
            epochs=epochs,
            batch_size=32 if len(rows) < 3000 else 128,
            learning_rate=3e-3,
            seed=draw,
            progress=False,
            **more,
        )
        model = OnSequences(network, FrozenEstimator(self.encoder), self.silence, holdout=0)
        return self.area(model.fit(self.known[rows]))

    def area(self, model) -> float:
        return roc_auc_score(self.asked.label, model.predict_proba(self.asked)[:, 1])

    def frozen(self, rows, draw, source="causal") -> float:
        """A logistic regression on the states and the silence."""
        if source not in self.tables:
            silence, network = clone(self.silence).fit(self.known), self.source(source).estimator
            self.tables[source] = [
                np.column_stack(
                    [last_states(network, self.encoder.encode(X)), silence.transform(X).fillna(0)]
                )
                for X in (self.known, self.asked)
            ]
        known, asked = self.tables[source]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(known[rows], self.known.label[rows])
        return roc_auc_score(self.asked.label, model.predict_proba(asked)[:, 1])

    def ways(self) -> dict:
        return {
            "from scratch": self.tuned,
            "causal, fine-tuned": lambda rows, draw: self.tuned(rows, draw, "causal"),
            "causal, old layers at a tenth": lambda rows, draw: self.tuned(rows, draw, "causal", slow=0.1),
            "causal, frozen": self.frozen,
            "from scratch, both ways": lambda rows, draw: self.tuned(rows, draw, None, "bigru"),
            "masked, fine-tuned": lambda rows, draw: self.tuned(rows, draw, "masked", "bigru"),
            "masked, frozen": lambda rows, draw: self.frozen(rows, draw, "masked"),
            "counts": lambda rows, draw: self.area(OnSequences(CountsClassifier()).fit(self.known[rows])),
            "boosting on features": lambda rows, draw: self.area(
                make_classifier("lightgbm", inputs="features").fit(self.known[rows])
            ),
        }


def transfer(options) -> dict:
    """The AUC of each way over numbers of labels, with intervals over the draws."""
    lab, found = Transfer(options), []
    for n in options.labels:
        for name, way in lab.ways().items():
            for draw in range(options.draws):
                what = (name, n, draw, options.users, options.seed)
                cell = kept(
                    options.folder / "transfer",
                    what,
                    lambda way=way, n=n, draw=draw: {"auc": float(way(lab.rows(n, draw), draw))},
                )
                found.append({"way": name, "labels": n, "draw": draw, **cell})
            print(
                f"  {n:,} labels, {name}: {np.mean([row['auc'] for row in found[-options.draws :]]):.3f}",
                flush=True,
            )
    return transfer_tables(pd.DataFrame(found), lab)


def transfer_tables(found: pd.DataFrame, lab: Transfer) -> dict:
    wide = found.pivot(index=["way", "draw"], columns="labels", values="auc")
    order = list(lab.ways())
    area = pd.DataFrame({way: wide.loc[way].apply(spoken) for way in order}).T
    gain = {way: (wide.loc[way] - wide.loc[other]).apply(spoken, sign="+") for way, other in AGAINST.items()}
    what = f"{len(lab.known):,} examples to draw from, {len(lab.asked):,} in the test"
    tables = {
        f"transfer: AUC by the number of labels, 95 % intervals over draws; {what}": area,
        "transfer: gain of pre-training over a network of the same kind from scratch": pd.DataFrame(gain).T,
    }
    return {caption: table.rename_axis("way").reset_index() for caption, table in tables.items()}


def spoken(values, sign="") -> str:
    """Mean and interval of a few draws."""
    mean, n = np.mean(values), len(values)
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return f"{mean:{sign}.3f} ({mean - half:{sign}.3f} to {mean + half:{sign}.3f})"


PARTS = {"taobao": taobao, "shoppers": shoppers, "cdnow": cdnow, "shop": shop, "transfer": transfer}


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
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="numbers of labels of transfer")
    parser.add_argument("--draws", type=int, default=8, help="draws of labels of transfer")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    for part in options.part or PARTS:
        start, tables = time.perf_counter(), PARTS[part](options)
        show_tables(tables)
        print(f"\n{part}: {time.perf_counter() - start:.0f} s in this run")
        if options.save:
            settings = {"seed": options.seed, "epochs at most": options.epochs}
            settings |= (
                {"draws of labels": options.draws} if part == "transfer" else {"resamples": options.resamples}
            )
            save(f"comparison_{part}", [], settings, tables)


if __name__ == "__main__":
    main()
