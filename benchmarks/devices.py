"""Training on two devices against one: the same weights? And do both devices take part?

One CPU poses as two devices. Each way has a process of its own; those whose backend is missing are left out.
"""

import argparse
import importlib.util
import json
import os
import sys

import pandas as pd
from results import child, save, show_tables

WAYS = {
    "tf.distribute.MirroredStrategy": "tensorflow",
    "keras.distribution.DataParallel, TensorFlow": "tensorflow",
    "keras.distribution.DataParallel, JAX": "jax",
}


def two_devices(backend: str):
    """Make the CPU pose as two devices, before the backend starts."""
    os.environ |= {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    if backend == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def fit(held: list):
    """Three epochs of a small network; notes how many devices held its weights."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(512, 8)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1, "sigmoid")]
    network = keras.Sequential(layers)
    network.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", jit_compile="auto")
    before = network.get_weights()
    network.fit(x, y, batch_size=64, epochs=3, shuffle=False, verbose=0)
    held.append(holders(network))
    return network, max(float(abs(a - b).max()) for a, b in zip(before, network.get_weights(), strict=True))


def holders(network) -> int:
    """How many devices hold a copy of the weights that are trained."""
    value = network.trainable_variables[0].value
    if hasattr(value, "sharding"):
        return len(value.sharding.device_set)
    return len({part.device for part in getattr(value, "values", [value])})


def run(way: str) -> dict:
    """One device, then two."""
    two_devices(WAYS[way])
    import keras

    held = []
    one, moved = fit(held)
    if way.startswith("tf."):
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            two, _ = fit(held)
    else:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        two, _ = fit(held)
    pairs = zip(one.get_weights(), two.get_weights(), strict=True)
    return {"off": max(float(abs(a - b).max()) for a, b in pairs), "moved": moved, "held": held[1]}


def main():
    """Print the table, and save it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the result")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return print(json.dumps(run(options.way)))
    ways = [way for way, backend in WAYS.items() if importlib.util.find_spec(backend)]
    found = {way: child(__file__, "--way", way) for way in ways}
    rows = [
        {
            "way": way,
            "devices that hold the weights": one["held"],
            "weights differ from one device by": f"{one['off']:.1e}",
            "weights moved by": f"{one['moved']:.1e}",
        }
        for way, one in found.items()
    ]
    tables = {"Two devices": pd.DataFrame(rows)}
    show_tables(tables)
    if options.save:
        save("devices", [], {"devices": 2, "examples": 512, "batch": 64, "epochs": 3}, tables)


if __name__ == "__main__":
    sys.exit(main())
