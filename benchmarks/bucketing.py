"""Training on batches bucketed by length, against the same network on sequences padded to 100.

Prints how many times faster an epoch is, and the validation AUC of both; README.md says how.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np
from results import save, show

from seqbook.data.sequences import Sequences, batches, import_keras
from seqbook.evaluation.metrics import bootstrap_metrics
from seqbook.models.networks import build_network, input_fields

LONGEST, MEDIAN, BATCH = 100, 12, 128
CODES = 5  # padding, unknown, view, cart, buy


def make_sequences(n: int, seed: int) -> tuple[Sequences, np.ndarray]:
    """Lognormal lengths, random events, and a label: more carts near the end make it likelier."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.round(rng.lognormal(np.log(MEDIAN), 1, n)), 1, LONGEST).astype("int64")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    behavior = rng.choice([2, 3, 4], offsets[-1], p=[0.8, 0.15, 0.05]).astype("int32")
    gap = rng.exponential(1, offsets[-1]).astype("float32")
    ages = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])  # 1 for the last event
    signal = np.add.reduceat(np.where(behavior == 3, np.exp(-ages / 4), 0), offsets[:-1])
    label = (rng.random(n) < 1 / (1 + np.exp(3 - 5 * signal))).astype("float32")
    return Sequences({"behavior": behavior, "log_gap": gap}, offsets, np.arange(n)), label


def make_network(X: Sequences, y: np.ndarray, options):
    """The network of `SequenceClassifier`, the same weights each time."""
    keras = import_keras()
    keras.utils.set_random_seed(options.seed)
    fields = input_fields(X) | {"behavior": {"size": CODES}}
    network = build_network(fields, np.array([1 - y.mean(), y.mean()]))
    network.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy", jit_compile=False)
    return network


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=20_000, help="training sequences")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each; the first is not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    X, y = make_sequences(options.sequences, options.seed)
    V, v = make_sequences(max(options.sequences // 4, 500), options.seed + 1)
    bucketed, padded = make_network(X, y, options), make_network(X, y, options)
    wide, wide_v = X.pad(LONGEST), V.pad(LONGEST)
    data, seconds = batches(X, y, BATCH, seed=options.seed), {"bucketed": [], "padded": []}
    for _ in range(options.epochs):
        started = time.perf_counter()
        bucketed.fit(data, verbose=0, shuffle=False)
        between = time.perf_counter()
        padded.fit(wide, y, batch_size=BATCH, verbose=0)
        for name, took in (("bucketed", between - started), ("padded", time.perf_counter() - between)):
            seconds[name].append(took)
    asked, proba = batches(V, batch_size=512, shuffle=False), np.empty(len(V))
    proba[asked.order] = bucketed.predict(asked, verbose=0)[:, 0]
    answers = {"bucketed": proba, "padded": padded.predict(wide_v, batch_size=512, verbose=0)[:, 0]}
    epoch = {name: statistics.median(took[1:]) for name, took in seconds.items()}
    rows = [("an epoch in buckets, times as fast as padded", epoch["padded"] / epoch["bucketed"], "times")]
    rows += [(f"an epoch, {name}", took, "s") for name, took in epoch.items()]
    for name, answer in answers.items():
        auc = bootstrap_metrics(v, answer.astype("float64")).set_index("metric").loc["roc_auc"]
        rows += [(f"validation AUC, {name}", auc["value"], "")]
        rows += [
            (f"validation AUC, {name}, {end} end of the 95 % interval", auc[end], "")
            for end in ("low", "high")
        ]
    show(rows)
    if options.save:
        settings = {
            "sequences": f"{len(X):,}",
            "median length": int(np.median(X.lengths)),
            "epochs": options.epochs,
        }
        save("bucketing", rows, settings)


if __name__ == "__main__":
    main()
