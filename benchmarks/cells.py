"""The forward pass of an LSTM in NumPy, and one step of training, against the same layer of Keras on the CPU.

Prints how many times as long NumPy takes; README.md says how it is measured.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a CPU against a CPU

import numpy as np
from results import save, show

from seqbook.models.cells import LSTMCell, to_keras

BATCH, TIME, INPUTS, UNITS = 64, 100, 32, 128


def make(activation: str = "tanh"):
    """The cell, the same layer, compiled, and a batch for both."""
    import tensorflow as tf

    cell = LSTMCell.init(INPUTS, UNITS, dtype="float32", activation=activation)
    layer = to_keras(cell, return_sequences=True)
    forward = tf.function(lambda x: layer(x), autograph=False)

    @tf.function(autograph=False)
    def both_ways(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, layer.trainable_variables)

    return cell, forward, both_ways


def contestants() -> dict:
    """What is timed: name -> a function that returns arrays."""
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, INPUTS)).astype("float32")
    ones = np.ones((BATCH, TIME, UNITS), "float32")
    cell, forward, both_ways = make()
    relu = make("relu")[1]

    def numpy_both_ways():
        gradients = cell.backward(cell.forward(x)[2], ones)[0]
        return [gradients[name] for name in "WUb"]

    return {
        "forward, NumPy": lambda: [cell.forward(x)[0]],
        "forward, Keras": lambda: [forward(x).numpy()],
        "forward, Keras with ReLU": lambda: [relu(x).numpy()],
        "forward and back, NumPy": numpy_both_ways,
        "forward and back, Keras": lambda: [g.numpy() for g in both_ways(x)],
    }


def check(runs: dict):
    """NumPy and Keras must compute the same."""
    for kind in ("forward", "forward and back"):
        for a, b in zip(runs[f"{kind}, NumPy"](), runs[f"{kind}, Keras"](), strict=True):
            if not np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max()):
                sys.exit(f"{kind}: NumPy and Keras do not agree")


def measure(runs: dict, turns: int) -> dict:
    """Seconds of each turn; they take turns."""
    found = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - started)
    return found


def report(found: dict) -> list:
    """Ratios first, then the seconds behind them."""
    best = {name: min(seconds) for name, seconds in found.items()}
    rows = []
    for kind in ("forward", "forward and back"):
        ours, keras = (found[f"{kind}, {name}"] for name in ("NumPy", "Keras"))
        rows.append((f"{kind}: NumPy, times as long as Keras", min(ours) / min(keras), "times"))
        rows.append((f"{kind}: the same by medians", np.median(ours) / np.median(keras), "times"))
    ratio = best["forward, Keras with ReLU"] / best["forward, Keras"]
    rows.append(("forward: Keras with ReLU, times as long as with tanh", ratio, "times"))
    return rows + [(f"{name}: shortest", 1000 * seconds, "ms") for name, seconds in best.items()]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=40, help="turns of each contestant")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    runs = contestants()
    check(runs)
    rows = report(measure(runs, options.turns))
    show(rows)
    if options.save:
        settings = {"batch": BATCH, "events": TIME, "inputs": INPUTS, "units": UNITS, "turns": options.turns}
        save("cells", rows, settings)


if __name__ == "__main__":
    main()
