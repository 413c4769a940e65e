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
from seqbook.models.networks import build_network, input_fields, probability_layer

LONGEST, MEDIAN, BATCH = 100, 12, 128
SPREADS = (0.8, 1.0)  # standard deviations of the logarithm of the length
CODES = 5  # padding, unknown, view, cart, buy


def make_sequences(n: int, spread: float, seed: int) -> tuple[Sequences, np.ndarray]:
    """Lognormal lengths, random events, and a label: more carts near the end make it likelier."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.round(rng.lognormal(np.log(MEDIAN), spread, n)), 1, LONGEST).astype("int64")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    behavior = rng.choice([2, 3, 4], offsets[-1], p=[0.8, 0.15, 0.05]).astype("int32")
    gap = rng.exponential(1, offsets[-1]).astype("float32")
    ages = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])  # 1 for the last event
    signal = np.add.reduceat(np.where(behavior == 3, np.exp(-ages / 4), 0), offsets[:-1])
    label = (rng.random(n) < 1 / (1 + np.exp(3 - 5 * signal))).astype("float32")
    return Sequences({"behavior": behavior, "log_gap": gap}, offsets, np.arange(n)), label


def make_network(X: Sequences, y: np.ndarray, seed: int):
    """The network of `SequenceClassifier`, the same weights each time."""
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    fields = input_fields(X) | {"behavior": {"size": CODES}}
    network = build_network(fields, probability_layer([1 - y.mean(), y.mean()]))
    network.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy", jit_compile=False)
    return network


def in_buckets(X: Sequences, y: np.ndarray, seed: int):
    """Endless epochs of batches, each as wide as its longest sequence."""
    data = batches(X, y, BATCH, seed=seed)
    while True:
        yield (data[i] for i in range(len(data)))
        data.on_epoch_end()


def padded(X: Sequences, y: np.ndarray, seed: int):
    """Endless epochs of batches that are all as wide as the longest sequence there can be."""
    rng, whole = np.random.default_rng(seed), X.pad(LONGEST)
    while True:
        cuts = np.array_split(rng.permutation(len(y)), -(-len(y) // BATCH))
        yield (({name: values[rows] for name, values in whole.items()}, y[rows]) for rows in cuts)


def measure(X, y, V, options) -> dict:
    """Seconds of each epoch, and the probabilities for V, of both; they take turns."""
    found = {}
    for name, make in (("in buckets", in_buckets), ("padded", padded)):
        found[name] = (make_network(X, y, options.seed), make(X, y, options.seed), [])
    for _ in range(options.epochs):
        for network, epochs, seconds in found.values():
            started = time.perf_counter()
            for inputs, labels in next(epochs):
                network.train_on_batch(inputs, labels)
            seconds.append(time.perf_counter() - started)
    whole = V.pad(LONGEST)
    return {
        name: (statistics.median(seconds[1:]), network.predict(whole, batch_size=512, verbose=0)[:, 0])
        for name, (network, _, seconds) in found.items()
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=20_000, help="training sequences")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each; the first is not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    rows, n = [], options.sequences
    for spread in SPREADS:
        X, y = make_sequences(n, spread, options.seed)
        V, v = make_sequences(max(n // 4, 500), spread, options.seed + 1)
        found, note = measure(X, y, V, options), f"spread {spread}"
        ratio = found["padded"][0] / found["in buckets"][0]
        rows.append((f"{note}: an epoch in buckets, times as fast as padded", ratio, "times"))
        rows.append((f"{note}: events in a sequence, mean", X.lengths.mean(), ""))
        for name, (seconds, proba) in found.items():
            auc = bootstrap_metrics(v, proba.astype("float64")).set_index("metric").loc["roc_auc"]
            rows.append((f"{note}, {name}: an epoch", seconds, "s"))
            rows.append((f"{note}, {name}: validation AUC", auc["value"], ""))
            for end in ("low", "high"):
                rows.append((f"{note}, {name}: its 95 % interval, {end} end", auc[end], ""))
    show(rows)
    if options.save:
        settings = {"sequences": f"{n:,}", "median length": MEDIAN, "longest": LONGEST, "batch size": BATCH}
        save("bucketing", rows, {**settings, "epochs": options.epochs})


if __name__ == "__main__":
    main()
