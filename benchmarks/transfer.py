"""What pre-training is worth: for 100 to 10,000 labels of one shop, and for another shop with other items.

Finished fits are kept in a folder, so that a run that was stopped goes on. See README.md for the protocol.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np
import pandas as pd
from real_logs import DATA
from results import kept, run_parts, spoken
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seqbook.data.datasets import load_next_item, simulate_shop
from seqbook.data.features import FeatureBuilder
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import Purchase, TimeSplit
from seqbook.evaluation.ranking import ranking_metrics
from seqbook.models.classical import CountsClassifier, make_classifier
from seqbook.models.fusion import (
    OnSequences,
    PretrainedClassifier,
    last_states,
    longest_histories,
    mask_events,
)
from seqbook.models.networks import NextEventModel, SequenceTagger
from seqbook.models.next_item import Popularity, SASRec, leave_one_out

RUNS = Path(__file__).parent / "runs" / "transfer"
AGAINST = {  # what the gain of each way of pre-training is measured against: the same network from scratch
    "causal, fine-tuned": "from scratch",
    "causal, old layers at a tenth": "from scratch",
    "causal, frozen": "from scratch",
    "masked, fine-tuned": "from scratch, both ways",
    "masked, frozen": "from scratch, both ways",
}
LABELS = (100, 300, 1000, 3000, 10_000)
USERS = (1000, 3000, 10_000)


class FewLabels:
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
        network = PretrainedClassifier(
            encoder,
            source and self.source(source),
            units=self.units,
            epochs=self.options.epochs,
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


def labels(options) -> dict:
    """The AUC of each way over numbers of labels, with intervals over the draws."""
    lab, found = FewLabels(options), []
    for n in options.labels:
        for name, way in lab.ways().items():
            for draw in range(options.draws):
                what = (name, n, draw, options.users, options.seed, options.epochs)
                cell = kept(
                    options.folder / "labels",
                    what,
                    lambda way=way, n=n, draw=draw: {"auc": float(way(lab.rows(n, draw), draw))},
                )
                found.append({"way": name, "labels": n, "draw": draw, **cell})
            print(
                f"  {n:,} labels, {name}: {np.mean([row['auc'] for row in found[-options.draws :]]):.3f}",
                flush=True,
            )
    return label_tables(pd.DataFrame(found), lab)


def label_tables(found: pd.DataFrame, lab: FewLabels) -> dict:
    wide = found.pivot(index=["way", "draw"], columns="labels", values="auc")
    order = list(lab.ways())
    area = pd.DataFrame({way: wide.loc[way].apply(spoken) for way in order}).T
    gain = {way: (wide.loc[way] - wide.loc[other]).apply(spoken, sign="+") for way, other in AGAINST.items()}
    what = f"{len(lab.known):,} examples to draw from, {len(lab.asked):,} in the test"
    tables = {
        f"labels: AUC by the number of labels, 95 % intervals over draws; {what}": area,
        "labels: gain of pre-training over a network of the same kind from scratch": pd.DataFrame(gain).T,
    }
    return {caption: table.rename_axis("way").reset_index() for caption, table in tables.items()}


class OtherShop:
    """SASRec on Amazon Video Games, with the weights of one that was fitted on Beauty; no item is in both."""

    settings = {
        "blocks": 2,
        "heads": 2,
        "dropout": 0.3,
        "loss": "sampled",
        "negatives": 1024,
        "windows": "last",
    }
    settings |= {"learning_rate": 2e-3, "epochs": 60, "patience": 5, "exclude_seen": True, "progress": False}

    def __init__(self, options):
        self.options, self.fitted = options, None
        self.events = read_items(options.data / "sasrec_Video.txt.gz")
        self.users = pd.unique(self.events["user_id"])

    def source(self):
        """The model of Beauty, fitted when it is first asked for."""
        if self.fitted is None:
            events = read_items(self.options.data / "s3rec_Beauty.txt.gz")
            X = SequenceEncoder(fields=("item_id",)).fit(events).encode(events)
            validation = leave_one_out(X, 1)
            self.fitted = SASRec(**self.settings, seed=self.options.seed).fit(validation[0], validation)
        return self.fitted

    def parts(self, n: int, draw: int) -> tuple:
        """What n users did but for their last event, that event, and the last one of 5,000 other users."""
        users = np.random.default_rng([n, draw]).permutation(self.users)
        if n + 5000 > len(users):
            sys.exit(
                f"there are {len(users):,} users, and 5,000 are asked; take fewer than {n:,} to learn from"
            )
        known, asked = (self.events[self.events["user_id"].isin(some)] for some in (users[:n], users[-5000:]))
        encoder = SequenceEncoder(fields=("item_id",)).fit(known)
        return leave_one_out(encoder.encode(known)), last_items(asked, encoder)

    def ndcg(self, model, n: int, draw: int) -> float:
        learned, (histories, targets) = self.parts(n, draw)
        model.fit(learned[0], learned)
        return float(ranking_metrics(model.target_ranks(histories, targets, exclude_seen=True))["ndcg@10"])

    def from_beauty(self, draw: int, frozen: bool = False):
        """A SASRec that starts from the weights of Beauty's, but for those of the items."""
        source = self.source().network_

        class Warm(SASRec):
            def _build(self):
                network = super()._build()
                for layer in (layer for layer in network.layers if layer.name != "items" and layer.weights):
                    layer.set_weights(source.get_layer(layer.name).get_weights())
                    layer.trainable = not frozen
                return network

        return Warm(**self.settings, seed=draw)

    def ways(self) -> dict:
        return {
            "from scratch": lambda draw: SASRec(**self.settings, seed=draw),
            "from Beauty": self.from_beauty,
            "from Beauty, only the items learn": lambda draw: self.from_beauty(draw, frozen=True),
            "popularity": lambda draw: Popularity(),
        }


def read_items(path: Path) -> pd.DataFrame:
    """The events of users with three or more."""
    events = load_next_item(path)
    return events[events.groupby("user_id")["item_id"].transform("size") > 2]


def last_items(events: pd.DataFrame, encoder) -> tuple:
    """Histories, and the item that came last, known to the encoder or not."""
    last = ~events["user_id"].duplicated(keep="last")
    histories = encoder.encode(events[~last])
    return histories, events[last].set_index("user_id")["item_id"].loc[histories.ids].to_numpy()


def catalogue(options) -> dict:
    """NDCG@10 of each way over numbers of users."""
    shop, found = OtherShop(options), []
    for n in options.users_of_video:
        for name, way in shop.ways().items():
            for draw in range(options.fits):
                what = ("catalogue", name, n, draw, options.seed, shop.settings)
                cell = kept(
                    options.folder / "catalogue",
                    what,
                    lambda way=way, n=n, draw=draw: {"ndcg": shop.ndcg(way(draw), n, draw)},
                )
                found.append({"way": name, "users": n, "draw": draw, **cell})
            print(
                f"  {n:,} users, {name}: {np.mean([row['ndcg'] for row in found[-options.fits :]]):.4f}",
                flush=True,
            )
    wide = pd.DataFrame(found).pivot(index=["way", "draw"], columns="users", values="ndcg")
    order = list(shop.ways())
    score = pd.DataFrame({way: wide.loc[way].apply(spoken, digits=4) for way in order}).T
    gain = {
        way: (wide.loc[way] - wide.loc["from scratch"]).apply(spoken, sign="+", digits=4)
        for way in order[1:3]
    }
    tables = {
        "catalogue: NDCG@10 over all items by the users of Video Games, 95 % intervals over draws": score,
        "catalogue: gain over the same network from scratch, paired by draw": pd.DataFrame(gain).T,
    }
    return {caption: table.rename_axis("way").reset_index() for caption, table in tables.items()}


PARTS = {"labels": labels, "catalogue": catalogue}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the published files")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished fits are kept")
    parser.add_argument("--users", type=int, default=4000, help="shoppers of the simulated shop")
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="numbers of labels")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the labels; chosen with --seed 10")
    parser.add_argument("--draws", type=int, default=8, help="draws of each number of labels")
    parser.add_argument("--users-of-video", type=int, nargs="+", default=USERS, help="users to learn from")
    parser.add_argument("--fits", type=int, default=4, help="draws of each number of users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    draws = {"labels": options.draws, "catalogue": options.fits}
    run_parts("transfer", PARTS, options, lambda part: {"draws": draws[part]})


if __name__ == "__main__":
    main()
