"""SASRec on 6,040 users, 3,400 items and a million events: seqbook, RecTools, and (if asked) RecBole.

Prints how many sequences a second each trains and how well it ranks after as many epochs; README.md says how.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np

LENGTH, WIDTH, BLOCKS, HEADS, BATCH, DROPOUT, RATE = 50, 64, 2, 2, 128, 0.2, 1e-3
TOP, GROUPS, FOLLOWERS = 10, 68, 3
LOSSES = {"softmax": "full softmax", "sampled": "sampled softmax"}
FEW = "rectools, few negatives"  # a contestant of the sampled softmax only


def make_log(users: int, items: int, events: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items of all users one after another, and offsets. The next item is one of the last one's group (half
    of the time), one of three that often follow it (0.3), or anything; popular items come first."""
    rng = np.random.default_rng(seed)
    lengths = spread(rng.lognormal(0, 0.9, users), events, least=20)
    chance = 1 / (1 + rng.permutation(items)) ** 0.8
    group, follow = rng.permutation(np.arange(items) % GROUPS), rng.integers(0, items, (items, FOLLOWERS))
    anything, of_group = Draw(chance, np.zeros(items, int)), Draw(chance, group)
    walks = np.zeros((users, lengths.max()), "int32")
    walks[:, 0] = anything(rng, np.zeros(users, int))
    for t in range(1, walks.shape[1]):
        last, kind = walks[:, t - 1], rng.random(users)
        followers = follow[last, rng.integers(0, FOLLOWERS, users)]
        walks[:, t] = np.select(
            [kind < 0.5, kind < 0.8], [of_group(rng, group[last]), followers], anything(rng, 0 * last)
        )
    kept = np.arange(walks.shape[1]) < lengths[:, None]
    return walks[kept], np.append(0, np.cumsum(lengths))


def spread(shares: np.ndarray, total: int, least: int) -> np.ndarray:
    """Whole numbers in proportion to shares, none below `least`, that sum to total."""
    whole = least + np.floor(shares / shares.sum() * (total - least * len(shares))).astype(int)
    whole[: total - whole.sum()] += 1
    return whole


class Draw:
    """Draws an item of a group, each by its chance."""

    def __init__(self, chance: np.ndarray, group: np.ndarray):
        self.order = np.argsort(group, kind="stable")
        shares = chance / np.bincount(group, chance)[group]
        self.ends = np.cumsum(shares[self.order])

    def __call__(self, rng, group: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.ends, group + rng.random(len(group)) * (1 - 1e-9))
        return self.order[places.clip(max=len(self.order) - 1)]


def leave_one_out(items: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LENGTH + 1 events before the last one of each user, which all contestants read, and the last one."""
    last = offsets[1:] - 1
    first = np.maximum(offsets[:-1], last - LENGTH - 1)
    lengths = last - first
    rows = np.repeat(first - np.append(0, np.cumsum(lengths)[:-1]), lengths) + np.arange(lengths.sum())
    return items[rows], np.append(0, np.cumsum(lengths)), items[last]


# Contestants: each makes a function that fits a model anew for some epochs, and one that lists the TOP items
# for each history, seen ones not left out.


def seqbook(items, offsets, options):
    """`seqbook.models.next_item.SASRec`."""
    from seqbook.models.next_item import SASRec

    X = seqbook_sequences(items, offsets)
    size = {"units": WIDTH, "blocks": BLOCKS, "heads": HEADS, "max_length": LENGTH, "dropout": DROPOUT}
    how = {"batch_size": BATCH, "learning_rate": RATE, "loss": options.loss, "negatives": options.negatives}

    def fit(epochs: int):
        return SASRec(**size, **how, epochs=epochs, seed=options.seed, progress=False).fit(X)

    return fit, lambda model: model.recommend(X, TOP, exclude_seen=False).items


def seqbook_sequences(items, offsets):
    """The histories as seqbook reads them."""
    from seqbook.data.sequences import Sequences, Vocabulary

    vocabulary = Vocabulary(np.unique(items))
    users = np.arange(len(offsets) - 1)
    return Sequences({"item": vocabulary.encode(items)}, offsets, users, {"item": vocabulary})


def rectools(items, offsets, options):
    """`rectools.models.SASRecModel`, trained as it trains by default."""
    from pytorch_lightning import seed_everything
    from rectools.models import SASRecModel

    negatives = options.few if options.contestant == FEW else options.negatives
    loss = {"softmax": "softmax", "sampled": "sampled_softmax"}[options.loss]
    size = {"n_factors": WIDTH, "n_blocks": BLOCKS, "n_heads": HEADS, "session_max_len": LENGTH}
    how = {"batch_size": BATCH, "lr": RATE, "loss": loss, "n_negatives": negatives, "dropout_rate": DROPOUT}
    dataset, users = rectools_dataset(items, offsets), np.arange(len(offsets) - 1)

    def fit(epochs: int):
        seed_everything(options.seed)
        return SASRecModel(**size, **how, epochs=epochs).fit(dataset)

    def lists(model) -> np.ndarray:
        found = model.recommend(users, dataset, k=TOP, filter_viewed=False).sort_values(["user_id", "rank"])
        return found["item_id"].to_numpy().reshape(len(users), TOP)

    return fit, lists


def rectools_dataset(items, offsets):
    """The histories as RecTools reads them: a frame with a time for each event."""
    import pandas as pd
    from rectools.dataset import Dataset

    lengths = np.diff(offsets)
    place = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(len(lengths)), lengths), "item_id": items, "weight": 1.0}
    )
    return Dataset.construct(frame.assign(datetime=pd.Timestamp("2026-01-01") + pd.to_timedelta(place, "s")))


def recbole(items, offsets, options):
    """`recbole.model.sequential_recommender.SASRec`: some steps, and from them the seconds of an epoch."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from torch.optim import Adam

    with tempfile.TemporaryDirectory() as folder:
        write_atomic(items, offsets, Path(folder) / "log")
        config = Config(SASRec, "log", config_dict=recbole_settings(folder, options.seed))
        batches, *_ = data_preparation(config, (made := create_dataset(config)))
    model = SASRec(config, made).train()
    optimizer = Adam(model.parameters(), RATE)

    def epoch() -> float:
        seconds = []
        for _, batch in zip(range(options.steps + 3), batches, strict=False):
            started = time.perf_counter()
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[3:]) * len(batches)

    return epoch, None


def recbole_settings(folder: str, seed: int) -> dict:
    """What RecBole is told; what it writes, it writes into the folder."""
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    size = {"hidden_size": WIDTH, "inner_size": WIDTH, "n_layers": BLOCKS, "n_heads": HEADS}
    drop = {"hidden_dropout_prob": DROPOUT, "attn_dropout_prob": DROPOUT}
    how = {"train_batch_size": BATCH, "loss_type": "CE", "train_neg_sample_args": None, "seed": seed}
    quiet = {"state": "ERROR", "show_progress": False, "checkpoint_dir": folder, "use_gpu": False}
    split = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    data = {"data_path": folder, "load_col": columns, "MAX_ITEM_LIST_LENGTH": LENGTH}
    return {**size, **drop, **how, **quiet, **split, **data}


def write_atomic(items, offsets, folder: Path):
    """The histories in RecBole's text form; its own evaluation takes two events of each away."""
    folder.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, (first, last) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        own = [*items[first:last], items[last - 1], items[last - 1]]
        rows += [f"{user}\t{item}\t{t}" for t, item in enumerate(own)]
    (folder / "log.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")


CONTESTANTS = {"seqbook": seqbook, "rectools": rectools, FEW: rectools, "recbole": recbole}


def contest(options):
    """What a process of its own does: fit one contestant on two cores, keep its lists, print its times."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.contestant != "seqbook":
        import torch

        torch.set_num_threads(options.cores)
    log = np.load(options.data)
    items, offsets, make = log["items"], log["offsets"], CONTESTANTS[options.contestant]
    fit, lists = make(items, offsets, options)
    if lists is None:
        return print(json.dumps({"epoch": fit(), "fit": None}))
    make(items[: offsets[BATCH]], offsets[: BATCH + 1], options)[0](1)  # what only a first fit does
    (one, _), (every, model) = timed(fit, 1), timed(fit, options.epochs)
    if every <= one:
        sys.exit("the fit is too short to be timed; ask for more --epochs")
    np.save(options.out, np.asarray(lists(model), "int64"))
    print(json.dumps({"epoch": (every - one) / (options.epochs - 1), "fit": every}))


def timed(work, *arguments) -> tuple:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def run(
    python: str, name: str, options, folder: Path, loss: str, seed: int
) -> tuple[dict, np.ndarray | None]:
    """Times and lists of a contestant in a process of its own."""
    out = folder / f"{name}-{loss}-{seed}.npy"
    same = {key: getattr(options, key) for key in ("epochs", "negatives", "few", "cores", "steps")}
    told = {"contestant": name, "loss": loss, "seed": seed, "data": folder / "log.npz", "out": out}
    arguments = [f"--{key}={value}" for key, value in {**same, **told}.items()]
    quiet = {**os.environ, "OMP_NUM_THREADS": str(options.cores), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, env=quiet)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]), np.load(out) if out.exists() else None


def has(python: str | None, module: str) -> bool:
    """Whether an interpreter has a module; says so where it has none."""
    if python and not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        return True
    print(
        f"{module}: left out; give an interpreter that has it ({python or 'none was given'})", file=sys.stderr
    )
    return False


def gains(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """NDCG of each user: 1 / log2(1 + rank) of the target, 0 where it is not in the list."""
    hit = lists == targets[:, None]
    return np.where(hit.any(axis=1), 1 / np.log2(hit.argmax(axis=1) + 2), 0.0)


def measure(pythons: dict, options, folder: Path, targets: np.ndarray) -> dict:
    """(loss, contestant) -> its rounds: rate, rate of the whole fit, NDCG of each user. They take turns."""
    rounds, users = {}, len(targets)
    for seed in range(options.seed, options.seed + options.rounds):
        for loss in LOSSES:
            for name, python in pythons.items():
                once = name == "recbole" and seed > options.seed
                if once or loss == {"recbole": "sampled", FEW: "softmax"}.get(name):
                    continue
                found, lists = run(python, name, options, folder, loss, seed)
                ndcg = None if lists is None else gains(lists, targets)
                whole = found["fit"] and users * options.epochs / found["fit"]
                row = (users / found["epoch"], whole, ndcg)
                rounds.setdefault((loss, name), []).append(row)
                scored = "" if ndcg is None else f", NDCG@{TOP} {ndcg.mean():.4f}"
                print(
                    f"seed {seed}, {loss}, {name}: {row[0]:.0f} sequences/s{scored}",
                    file=sys.stderr,
                    flush=True,
                )
    return rounds


def summarise(rounds: dict) -> list:
    """Rows of (what, value, unit): ratios first."""
    rows = []
    for loss, title in LOSSES.items():
        for name in ("rectools", FEW):
            if (loss, name) in rounds:
                rows += compare(f"{title}, seqbook and {name}", rounds[loss, "seqbook"], rounds[loss, name])
    for (loss, name), found in rounds.items():
        steady, whole, ndcg = zip(*found, strict=True)
        rows.append((f"{LOSSES[loss]}, {name}: training", statistics.median(steady), "sequences/s"))
        if ndcg[0] is None:
            continue
        rows.append((f"{LOSSES[loss]}, {name}: whole fit", statistics.median(whole), "sequences/s"))
        means = [one.mean() for one in ndcg]
        rows.append((f"{LOSSES[loss]}, {name}: NDCG@{TOP}, mean over seeds", statistics.mean(means), ""))
        if len(means) > 1:
            rows.append((f"{LOSSES[loss]}, {name}: its deviation", statistics.stdev(means), ""))
    return rows


def compare(title: str, ours: list, theirs: list) -> list:
    """How many times faster, round by round, and how much better, user by user."""
    times = [a[0] / b[0] for a, b in zip(ours, theirs, strict=True)]
    fits = [a[1] / b[1] for a, b in zip(ours, theirs, strict=True)]
    better = np.mean([a[2] - b[2] for a, b in zip(ours, theirs, strict=True)], axis=0)
    half = 1.96 * better.std(ddof=1) / np.sqrt(len(better))
    return [
        (f"{title}: training, times as fast", statistics.median(times), "times"),
        (f"{title}: training, the slowest round", min(times), "times"),
        (f"{title}: the whole fit, times as fast", statistics.median(fits), "times"),
        (f"{title}: NDCG@{TOP}, the one less the other", better.mean(), ""),
        (f"{title}: half of its 95 % interval", half, ""),
    ]


def version(python: str, package: str) -> str:
    """The version of a package in another environment."""
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", script], capture_output=True, text=True).stdout.strip()


def settings(pythons: dict, options) -> dict:
    """What was set, and the versions of the peers."""
    wanted = ("users", "items", "events", "epochs", "rounds", "negatives", "few", "cores")
    found = {name: f"{getattr(options, name):,}" for name in wanted}
    for name in pythons.keys() & {"rectools", "recbole"}:
        found[name] = f"{version(pythons[name], name)} (torch {version(pythons[name], 'torch')})"
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", help="interpreter of an environment with rectools[torch]==0.19.*")
    parser.add_argument("--recbole", help="interpreter of an environment with recbole==1.2.1")
    for name, value in (("users", 6_040), ("items", 3_400), ("events", 1_000_000), ("negatives", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--few", type=int, default=32, help="negatives of RecTools with few of them")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each fit, 2 or more")
    parser.add_argument("--rounds", type=int, default=3, help="fits of each, with one seed each")
    parser.add_argument("--cores", type=int, default=2, help="cores of each contestant, the same ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    parser.add_argument("--steps", type=int, default=40, help="steps of RecBole that are timed")
    for name in ("contestant", "loss", "data", "out"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)  # for the processes of the contestants
    return parser.parse_args()


def main():
    options = arguments()
    if options.contestant:
        return contest(options)
    from results import save, show

    asked = {"rectools": options.peer, "recbole": options.recbole}
    pythons = {"seqbook": sys.executable}
    pythons |= {name: python for name, python in asked.items() if has(python, name)}
    pythons |= {FEW: options.peer} if "rectools" in pythons else {}
    with tempfile.TemporaryDirectory() as folder:
        log = make_log(options.users, options.items, options.events, options.seed)
        items, offsets, targets = leave_one_out(*log)
        np.savez(Path(folder) / "log.npz", items=items, offsets=offsets)
        popular = np.argsort(-np.bincount(items, minlength=options.items), kind="stable")[:TOP]
        baseline = gains(np.tile(popular, (len(targets), 1)), targets).mean()
        rows = summarise(measure(pythons, options, Path(folder), targets))
    rows.append((f"the most popular items: NDCG@{TOP}", baseline, ""))
    show(rows)
    if options.save:
        save("recommenders", rows, settings(pythons, options))


if __name__ == "__main__":
    main()
