"""Training speed of LSTM, GRU, SASRec and BERT4Rec over batch sizes and precisions, on any backend of Keras.

For each it gives sequences per second, the floating-point operations per second that they are, beside those
of a large matrix product in the same precision, and the most memory in use. KERAS_BACKEND says which backend.
`--out FILE` keeps one backend's result, `--merge FILE ... --save` makes the saved result of several.
README.md says how it is measured.
"""

import argparse
import datetime as dt
import importlib.util
import json
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd  # before `stand_in`: pandas looks for pyarrow
import sklearn.base  # noqa: F401
from results import RESULTS, machine, save, show, show_tables, versions, write_table

# seqbook reads logs with these; a machine that only trains may lack them
READERS = """duckdb joblib lightgbm matplotlib pandera polars pooch prefixspan pyarrow pyarrow.compute
pyarrow.parquet skops skops.io statsmodels threadpoolctl""".split()
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
COLUMNS = ["card", "backend", "model", "precision", "batch"]
MEASURED = ["seqs/s", "seqs/s, fit", "TFLOP/s", "% of ceiling", "peak GB", "compile s"]
ITEMS = 10_000


def stand_in():
    """Let seqbook import where the readers are missing; what needs them fails when it is called."""
    for name in READERS:
        try:
            found = name in sys.modules or importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            sys.modules[name] = MagicMock(__spec__=None, name=name)


class Model:
    """A compiled network, its batches, and the multiply-adds of one sequence in one forward pass."""

    def __init__(self, network, batches: list, multiply_adds: int):
        self.network, self.batches, self.multiply_adds = network, batches, multiply_adds


# what is trained: sizes of the recurrent networks and of the Transformers
RECURRENT = {"time": 100, "units": 256, "dim": 64}
ATTENTION = {"time": 100, "width": 256, "blocks": 2, "heads": 4}


def recurrent(kind: str, batch: int, size: dict) -> Model:
    """A classifier of shoppers, over behaviour, item and time gap."""
    from seqbook.models.training import jit_choice, make_optimizer

    network = classifier(kind, size)
    network.compile(make_optimizer(), "binary_crossentropy", jit_compile=jit_choice(recurrent=True))
    rng, shape, found = np.random.default_rng(0), (batch, size["time"]), []
    for _ in range(4):
        x = {"behavior": rng.integers(2, 6, shape, "int32"), "item": rng.integers(2, ITEMS, shape, "int32")}
        x |= {"log_gap": rng.normal(size=shape).astype("float32"), "mask": np.ones(shape, bool)}
        found.append((x, rng.integers(0, 2, batch).astype("float32")))
    # every weight of the cell is used once at each event
    cell = next(layer for layer in flat_layers(network) if type(layer).__name__.lower() == kind)
    kernels = [np.prod(w.shape) for w in cell.trainable_weights if "kernel" in w.name]
    return Model(network, found, int(size["time"] * sum(kernels)))


def flat_layers(network) -> list:
    """All layers, those within layers too."""
    return list(network._flatten_layers(include_self=False))


def classifier(kind: str, size: dict):
    """The network of `SequenceClassifier` with this encoder."""
    from seqbook.models import networks

    scale = {"mean": 0.0, "variance": 1.0}
    fields = {"behavior": {"size": 6}, "item": {"size": ITEMS}, "log_gap": scale}
    options = {"encoder": kind, "units": size["units"], "embedding_dim": size["dim"], "penalty": 0.0}
    return networks.build_network(fields, networks.probability_layer(np.array([0.8, 0.2])), **options)


def attention(kind: str, batch: int, size: dict) -> Model:
    """A next-item model with the full softmax: SASRec at all positions, BERT4Rec at the hidden ones."""
    from seqbook.data.sequences import Sequences
    from seqbook.models import next_item

    keras, t, w = import_keras(), size["time"], size["width"]
    options = {"units": w, "max_length": t, "blocks": size["blocks"], "heads": size["heads"]}
    make = next_item.SASRec if kind == "sasrec" else next_item.BERT4Rec
    model = make(**options, batch_size=batch, precision=keras.config.dtype_policy().name)
    model.n_items_, model.counts_ = ITEMS, np.ones(ITEMS)
    length = t + 1 if kind == "sasrec" else t  # SASRec reads all events but the last
    codes = np.random.default_rng(0).integers(0, ITEMS, batch * length, "int32")
    X = Sequences({next_item.FIELD: codes}, np.arange(batch + 1) * length, np.arange(batch), {})
    training, one = model._compile(1000), next_item._Batches(model, model._windows(X), 0)[0]
    # a block: query, key, value, output and two dense layers; scores and their sum over the positions
    block = 6 * t * w * w + 2 * t * t * w
    logits = w * ITEMS * int((one[1] > 0).sum()) // batch
    return Model(training, [one], size["blocks"] * block + logits)


MODELS = {
    "lstm": (recurrent, RECURRENT),
    "gru": (recurrent, RECURRENT),
    "sasrec": (attention, ATTENTION),
    "bert4rec": (attention, ATTENTION),
}


def import_keras():
    """Keras as seqbook imports it."""
    from seqbook.data.sequences import import_keras

    return import_keras()


def synchronize():
    """Wait until the device has done all that it was given."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.synchronize()


def ceiling(precision: str, n: int, seconds: float) -> float:
    """TFLOP/s of the product of two n x n matrices in this precision, one after another."""
    ops = import_keras().ops
    dtype = precision.removeprefix("mixed_")
    rng = np.random.default_rng(0)
    a = ops.cast(rng.normal(size=(n, n)).astype("float32") / n**0.5, dtype)

    def run(times):
        b, start = a, time.perf_counter()
        for _ in range(times):
            b = ops.matmul(b, a)
        float(ops.convert_to_numpy(ops.cast(b[0, 0], "float32")))  # waits
        return time.perf_counter() - start

    run(2)
    times = max(2, int(4 * seconds / max(run(4), 1e-6)))
    return 2 * n**3 * times / min(run(times) for _ in range(3)) / 1e12


def reset_peak():
    """Forget the peak of memory so far, where the backend can (JAX cannot)."""
    if (backend := import_keras().backend.backend()) == "torch" and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.reset_peak_memory_stats()
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.reset_memory_stats("GPU:0")


def peak() -> float | None:
    """The most memory of the device in use since then, in GB; None on a CPU."""
    backend, found = import_keras().backend.backend(), None
    if backend == "torch" and sys.modules["torch"].cuda.is_available():
        found = sys.modules["torch"].cuda.max_memory_allocated()
    elif backend == "jax":
        stats = sys.modules["jax"].devices()[0].memory_stats()
        found = stats and stats.get("peak_bytes_in_use")
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            found = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None if found is None else found / 1e9


def measure(model: Model, batch: int, seconds: float) -> dict:
    """Steps one by one, as seqbook's loop makes them, and in Keras's `fit`, after two steps that compile."""
    start = time.perf_counter()
    for i in range(2):
        model.network.train_on_batch(*model.batches[i % len(model.batches)])
    compiled = time.perf_counter() - start
    step = timed(model, 3) / 3
    steps = max(4, int(seconds / step))
    synchronize()
    one_by_one = batch * steps / timed(model, steps)
    data = repeated(model.batches, steps)
    model.network.fit(repeated(model.batches, 2), epochs=1, verbose=0, shuffle=False)
    synchronize()
    start = time.perf_counter()
    model.network.fit(data, epochs=1, verbose=0, shuffle=False)
    synchronize()
    whole = batch * steps / (time.perf_counter() - start)
    return {"seqs/s": one_by_one, "seqs/s, fit": whole, "compile s": compiled}


def timed(model: Model, steps: int) -> float:
    """Seconds of so many steps; the loss of the last one is waited for."""
    start = time.perf_counter()
    for i in range(steps):
        loss = model.network.train_on_batch(*model.batches[i % len(model.batches)])
    float(loss)
    synchronize()
    return time.perf_counter() - start


def repeated(batches: list, steps: int):
    """The batches as a data set of Keras, over and over."""

    class Repeated(import_keras().utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, i):
            return batches[i % len(batches)]

    return Repeated()


def one(name: str, precision: str, batch: int, quick: bool, seconds: float) -> dict:
    """Build, train and measure one network."""
    from seqbook.models import training

    make, size = MODELS[name]
    if quick:
        size = {**size, "time": 20} | ({"units": 32} if "units" in size else {"width": 32})
    keras = import_keras()
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(0)
    reset_peak()
    before = peak()
    with training.precision(precision):
        model = make(name, batch, size)
        found = measure(model, batch, seconds)
    after = peak()
    known = import_keras().backend.backend() != "jax" or before is None or after > before
    # forward, and twice that backward; a multiply and an add each
    flops = 6 * model.multiply_adds * max(found["seqs/s"], found["seqs/s, fit"]) / 1e12
    return {**found, "TFLOP/s": flops, "peak GB": after if known else None}


def run(options) -> dict:
    """All measurements that the budget of time allows, the small batches first."""
    from seqbook.models import training

    began, device = time.perf_counter(), training.find_device()
    card, backend = device["name"], device["backend"]
    precisions = [p for p in PRECISIONS if p in options.precisions]
    n = options.matrix or (1024 if device["kind"] == "cpu" else 8192)
    ceilings = {p: ceiling(p, n, min(options.seconds, 0.5)) for p in precisions}
    show([(f"matrix product of {n} in {p}", value, "TFLOP/s") for p, value in ceilings.items()])
    rows, left_out = [], []
    for batch in sorted(options.batches):
        for precision in reversed(precisions):  # the larger ones last: JAX's peak only grows
            for name in options.models:
                head = [card, backend, name, precision, batch]
                if time.perf_counter() - began > options.budget:
                    left_out.append(head)
                    continue
                rows.append(row_of(head, ceilings[precision], options))
    return {
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "card": card,
        "backend": backend,
        "matrix": n,
        "sizes": {"recurrent": RECURRENT, "attention": ATTENTION, "items": ITEMS, "quick": options.quick},
        "seconds": options.seconds,
        "ceilings": ceilings,
        "rows": rows,
        "left_out": left_out,
    }


def row_of(head: list, most: float, options) -> dict:
    """One row: what was measured, or why not."""
    row = dict(zip(COLUMNS, head, strict=True))
    try:
        row |= one(row["model"], row["precision"], row["batch"], options.quick, options.seconds)
        row["% of ceiling"] = 100 * row["TFLOP/s"] / most
    except Exception as error:  # such as: out of memory
        row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
    told = " ".join(f"{name} {row[name]:.4g}" for name in MEASURED if row.get(name) is not None)
    print(*head[1:], told or row["error"], flush=True)
    return row


def merge(paths: list) -> list:
    """Results of several runs: one for each card and backend, of each of its rows the last one."""
    found = {}
    for run in (json.loads(Path(path).read_text(encoding="utf-8")) for path in paths):
        key = run["card"], run["backend"]
        rows = {tuple(row[name] for name in COLUMNS): row for row in found.get(key, {}).get("rows", [])}
        rows |= {tuple(row[name] for name in COLUMNS): row for row in run["rows"]}
        ceilings = found.get(key, {}).get("ceilings", {}) | run["ceilings"]
        found[key] = run | {"rows": list(rows.values()), "ceilings": ceilings}
    return list(found.values())


def tables(runs: list) -> dict:
    """The two tables of the saved result."""
    rows = pd.DataFrame([row for found in runs for row in found["rows"] if "error" not in row])
    for name in MEASURED:
        rows[name] = [
            None if value is None or value != value else float(f"{value:.4g}") for value in rows[name]
        ]
    rows = rows.sort_values(["model", "backend", "precision", "batch"], kind="stable")
    most = [
        {"card": found["card"], "backend": found["backend"], "precision": p, "TFLOP/s": float(f"{value:.4g}")}
        for found in runs
        for p, value in found["ceilings"].items()
    ]
    return {
        "Training": rows[COLUMNS + MEASURED].astype(object).where(rows[COLUMNS + MEASURED].notna(), None),
        "Matrix product": pd.DataFrame(most),
    }


def keep(runs: list):
    """Save as benchmarks/results/gpu.json, with machine, versions and date of the measurement."""
    first = runs[0]
    settings = {"matrix": first["matrix"], "seconds": first["seconds"], "items": first["sizes"]["items"]}
    settings |= {
        f"{kind} {k}": v for kind in ("recurrent", "attention") for k, v in first["sizes"][kind].items()
    }
    path = save("gpu", [], settings, tables(runs))
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved |= {"machine": first["machine"], "date": max(found["date"] for found in runs)}
    saved["versions"] = {k: v for found in runs for k, v in found["versions"].items()}
    (RESULTS / "gpu.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    write_table()


def main():
    """Measure, or merge what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512, 2048])
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"], choices=PRECISIONS)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    parser.add_argument("--budget", type=float, default=95, help="seconds after which nothing new is begun")
    parser.add_argument("--matrix", type=int, help="side of the large matrix product")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run at all?")
    parser.add_argument("--out", help="file for this backend's result")
    parser.add_argument("--merge", nargs="+", help="files of --out; nothing is measured")
    parser.add_argument("--save", action="store_true", help="keep as benchmarks/results/gpu.json")
    options = parser.parse_args()
    stand_in()
    runs = merge(options.merge) if options.merge else [run(options)]
    if options.out:
        Path(options.out).write_text(json.dumps(runs[0], indent=1) + "\n", encoding="utf-8")
    show_tables(tables(runs))
    if options.save:
        keep(runs)


if __name__ == "__main__":
    main()
