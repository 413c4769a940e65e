"""Ranking all items for many users, and one user's recommendation, plain and exported; README.md says how.

Prints the ratio to one matrix product with argpartition, and the median and 99th percentile of single calls.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np
from results import child, save, show

WIDTH, LENGTH, BLOCKS, HEADS, TOP = 64, 50, 2, 2, 20
WARM = 50  # calls that are not timed
PLAIN = "one product and argpartition"
SECONDS = 1e3  # milliseconds in one
EXPORTS = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}  # format -> what runs it


def make_histories(users: int, items: int, seed: int):
    """`Sequences` of random items, 5 to 100 of them, each item at least once."""
    from seqbook.data.sequences import Sequences, Vocabulary

    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 101, users)
    codes = rng.integers(2, items + 2, lengths.sum()).astype("int32")
    codes[:items] = np.arange(2, items + 2)[: len(codes)]
    vocabulary = {"item": Vocabulary(np.arange(items) * 7 + 1)}
    return Sequences({"item": codes}, np.append(0, np.cumsum(lengths)), np.arange(users), vocabulary)


def given_model(users: np.ndarray, items: np.ndarray):
    """A next-item model that knows the vectors of its users: what is timed is the ranking, not a network."""
    from seqbook.models.next_item import NextItemModel

    class Given(NextItemModel):
        def _learn(self, *_):
            self.table = np.ascontiguousarray(items.T)

        def _scores(self, X) -> np.ndarray:
            return users[X.ids] @ self.table

    return Given()


def plain(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """One matrix product, and the TOP columns of each row in no order."""
    return np.argpartition(users @ items.T, -TOP, axis=1)[:, -TOP:]


def in_blocks(users: np.ndarray, items: np.ndarray, block: int = 500) -> np.ndarray:
    """The same for some users at a time, so that the scores stay small."""
    return np.concatenate([plain(users[i : i + block], items) for i in range(0, len(users), block)])


def median_seconds(work: dict, repeats: int) -> tuple[dict, dict]:
    """Median seconds of each, and what each returned; they take turns, and a first turn does not count."""
    seconds, found = {name: [] for name in work}, {}
    for turn in range(repeats + 1):
        for name, call in work.items():
            started = time.perf_counter()
            found[name] = call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(took) for name, took in seconds.items()}, found


def ranking(options) -> list:
    """Ranking all items for all users: rows."""
    rng = np.random.default_rng(options.seed)
    users, items = (rng.standard_normal((n, WIDTH)).astype("float32") for n in (options.users, options.items))
    X = make_histories(options.users, options.items, options.seed)
    model = given_model(users, items).fit(X)
    targets = rng.choice(model.items_.values, options.users)
    work = {
        PLAIN: lambda: plain(users, items),
        "the same in blocks of 500 users": lambda: in_blocks(users, items),
        "recommend": lambda: model.recommend(X, TOP, exclude_seen=False).items,
        "recommend, seen items left out": lambda: model.recommend(X, TOP, exclude_seen=True).items,
        "target_ranks": lambda: model.target_ranks(X, targets),
    }
    seconds, found = median_seconds(work, options.repeats)
    expected = np.sort(model.items_.values[found[PLAIN]], axis=1)
    assert (expected == np.sort(found["recommend"], axis=1)).all(), "the lists differ"
    base = seconds.pop(PLAIN)
    rows = [(f"{name}: times {PLAIN}", took / base, "times") for name, took in seconds.items()]
    return [*rows, (PLAIN, base, "s")]


def fitted(options):
    """A SASRec with the weights of a first epoch, and histories to ask for."""
    from seqbook.models.next_item import SASRec

    X = make_histories(max(options.items // 20, 640), options.items, options.seed)
    size = {"units": WIDTH, "blocks": BLOCKS, "heads": HEADS, "max_length": LENGTH}
    model = SASRec(**size, loss="sampled", epochs=1, progress=False, seed=options.seed).fit(X)
    events, o = model.items_.decode(X.fields["item"]), X.offsets
    return model, [events[o[i] : o[i + 1]].tolist() for i in range(len(X))]


def latency(options) -> list:
    """One user at a time on one core: rows."""
    model, histories = fitted(options)
    asked = [histories[i % len(histories)] for i in range(WARM + options.calls)]
    took = time_calls(lambda history: model.recommend([history], TOP), asked)
    rows = percentiles("recommend", took)
    for kind, runtime in EXPORTS.items():
        if has(runtime):
            rows += exported(model, asked, kind)
    return rows


def has(module: str) -> bool:
    """Whether a package is here; says so where it is not."""
    try:
        __import__(module)
    except ImportError:
        print(f"{module}: left out, because it is not installed", file=sys.stderr)
        return False
    return True


def time_calls(call, asked: list) -> np.ndarray:
    """Milliseconds of each call but the first ones."""
    took = []
    for one in asked:
        started = time.perf_counter()
        call(one)
        took.append(time.perf_counter() - started)
    return np.array(took[WARM:]) * SECONDS


def percentiles(what: str, took: np.ndarray) -> list:
    """Rows of the median and the 99th percentile."""
    return [
        (f"{what}: {name}", float(np.percentile(took, q)), "ms") for name, q in (("p50", 50), ("p99", 99))
    ]


def exported(model, asked: list, kind: str) -> list:
    """Rows of an exported model: from codes to the best items, the run alone, and how well it agrees."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{ {'onnx': 'onnx', 'litert': 'tflite'}[kind] }"
        model.export(path, format=kind)
        run = RUNNERS[kind](str(path))
        inputs = [model.serving_inputs([history]) for history in asked]
        best = time_calls(lambda one: np.argpartition(run(one).ravel(), -TOP)[-TOP:], inputs)
        alone = time_calls(run, inputs)
        some = range(0, len(asked), 20)
        apart = max(np.abs(run(inputs[i]).ravel() - own_scores(model, asked[i])).max() for i in some)
    rows = [*percentiles(f"{kind}, to the best items", best), *percentiles(f"{kind}, the run alone", alone)]
    return [*rows, (f"{kind}: largest difference of a score", float(apart), "")]


def own_scores(model, history: list) -> np.ndarray:
    """The scores of the model itself for one history."""
    return model._scores(model._read([history])).ravel()


def onnx_runner(path: str):
    """A function that runs a model in ONNX's form on one thread."""
    import onnxruntime

    few = onnxruntime.SessionOptions()
    few.intra_op_num_threads = few.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, few, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda item: session.run(None, {name: item})[0]


def litert_runner(path: str):
    """A function that runs a model in LiteRT's form on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path, num_threads=1).get_signature_runner()
    return lambda item: next(iter(run(item=item).values()))


RUNNERS = {"onnx": onnx_runner, "litert": litert_runner}


def part(options):
    """What a process of its own does: one part on its cores."""
    cores = {"ranking": options.cores, "latency": 1}[options.part]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    rows = {"ranking": ranking, "latency": latency}[options.part](options)
    print(json.dumps({"rows": rows}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {"users": 20_000, "items": 12_000, "repeats": 5, "calls": 2_000, "cores": 2, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    parser.add_argument("--part", choices=("ranking", "latency"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return part(options)
    told = [f"--{name}={getattr(options, name)}" for name in numbers]
    rows = []
    for name in ("ranking", "latency"):
        rows += [tuple(row) for row in child(__file__, *told, f"--part={name}")["rows"]]
    show(rows)
    if options.save:
        save("serving", rows, {name: f"{getattr(options, name):,}" for name in numbers if name != "seed"})


if __name__ == "__main__":
    main()
