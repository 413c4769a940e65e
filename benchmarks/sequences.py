"""A log to ragged sequences and counts by user: seqbook, plain NumPy, and a pandas loop with Keras's padding.

Prints how many times faster seqbook is; see README.md for how it is measured.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from results import contest_options, peak_gb, save, show, take_turns

PADDED = 100  # events; the loop's width


def make_log(events: int, seed: int = 0) -> pd.DataFrame:
    """A log in the order of time: 25 events a user on average, some users with many, items by Zipf's law."""
    rng = np.random.default_rng(seed)
    users = max(events // 25, 1)
    rates = rng.gamma(1.2, 1, users)
    items = 1 / np.arange(1, 10_001)
    return pd.DataFrame(
        {
            "user_id": rng.choice(users, events, p=rates / rates.sum()) + 1,
            "timestamp": np.sort(rng.integers(0, 120 * 86_400, events))
            .astype("datetime64[s]")
            .astype("datetime64[us]"),
            "behavior": np.array(["view", "cart", "buy"])[rng.choice(3, events, p=[0.85, 0.1, 0.05])],
            "item_id": rng.choice(10_000, events, p=items / items.sum()) + 1,
        }
    )


def seqbook(log: pd.DataFrame):
    """Ragged codes of items and behaviours, and counts. Fitting is timed apart."""
    from seqbook.data.sequences import SequenceEncoder

    encoder, started = SequenceEncoder(fields=("behavior", "item_id")), time.perf_counter()
    encoder.fit(log)
    fitted = time.perf_counter()
    sequences = encoder.encode(log)
    counts = sequences.counts("behavior")
    seconds = time.perf_counter() - fitted, fitted - started
    items = sequences.vocabularies["item"].decode(sequences.fields["item"])
    return *seconds, sequences.lengths, items, counts[["buy", "cart", "view"]].to_numpy()


def plain_numpy(log: pd.DataFrame, sort=lambda user, moment: np.lexsort((moment, user))):
    """One lexsort, offsets, one bincount."""
    started = time.perf_counter()
    user, moment = log["user_id"].to_numpy(), log["timestamp"].to_numpy()
    behavior, names = pd.factorize(log["behavior"])  # NumPy itself is slow with text
    order = sort(user, moment)
    sorted_user = user[order]
    begins = np.flatnonzero(np.append(True, sorted_user[1:] != sorted_user[:-1]))
    offsets = np.append(begins, len(user))
    items, acts = log["item_id"].to_numpy()[order], behavior[order]
    owner = np.repeat(np.arange(len(begins)), np.diff(offsets))
    counts = np.bincount(owner * len(names) + acts, minlength=len(begins) * len(names)).reshape(
        -1, len(names)
    )
    seconds = time.perf_counter() - started
    return seconds, 0.0, np.diff(offsets), items, counts[:, np.argsort(names)]


def argsort_numpy(log: pd.DataFrame):
    """The same for a log that is known to be in the order of time: a stable sort by user is enough."""
    return plain_numpy(log, lambda user, moment: np.argsort(user, kind="stable"))


def pandas_loop(log: pd.DataFrame):
    """`groupby`, which loops over the users and makes lists, and Keras's `pad_sequences`."""
    from seqbook.data.sequences import import_keras

    pad_sequences = import_keras().utils.pad_sequences

    started = time.perf_counter()
    codes = {"buy": 1, "cart": 2, "view": 3}
    coded = log.assign(behavior=log["behavior"].map(codes)).sort_values(
        ["user_id", "timestamp"], kind="stable"
    )
    groups = coded.groupby("user_id")
    items, acts = groups["item_id"].apply(list), groups["behavior"].apply(list)
    counts = [[part.count(code) for code in codes.values()] for part in acts]
    pad_sequences(items, maxlen=PADDED), pad_sequences(acts, maxlen=PADDED)
    seconds = time.perf_counter() - started
    lengths = np.array([len(part) for part in items])
    return seconds, 0.0, lengths, np.concatenate([*items]), np.array(counts)


CONTESTANTS = {
    "seqbook": seqbook,
    "plain NumPy": plain_numpy,
    "plain NumPy, order known": argsort_numpy,
    "pandas loop": pandas_loop,
}


def checksum(lengths, items, counts) -> list:
    """Numbers that depend on the order of all that was made."""
    place = np.arange(1, len(items) + 1) % 9973
    user = np.arange(1, len(lengths) + 1) % 9973
    return [int(lengths @ user), int(items @ place), *(int(column @ user) for column in counts.T)]


def run_one(path: str, name: str):
    """One measurement, in this process; prints JSON."""
    log, contestant = pd.read_parquet(path), CONTESTANTS[name]
    contestant(log[: max(len(log) // 100, 1)])  # imports and first calls
    seconds, fitting, *made = contestant(log)
    print(json.dumps({"seconds": seconds, "fit": fitting, "peak": peak_gb(), "sum": checksum(*made)}))


def report(events: int, found: dict, note: str) -> list:
    """Ratios first, then what is behind them."""
    ours = found["seqbook"]
    rows = [
        (f"{note}: seqbook, times as fast as {name}", run["seconds"] / ours["seconds"], "times")
        for name, run in found.items()
        if name != "seqbook"
    ]
    both = ours["seconds"] + ours["fit"]
    rows += [
        (f"{note}: the same, fitting the encoder included, as {name}", run["seconds"] / both, "times")
        for name, run in found.items()
        if name != "seqbook"
    ]
    rows += [(f"{note}: {name}", run["seconds"], "s") for name, run in found.items()]
    rows += [(f"{note}: seqbook, events a second", events / ours["seconds"] / 1e6, "million")]
    rows += [(f"{note}: seqbook, fitting the encoder (not in the above)", ours["fit"], "s")]
    return rows + [(f"{note}: {name}, most memory", run["peak"], "GB") for name, run in found.items()]


def main():
    options = contest_options(__doc__, CONTESTANTS)
    if options.one:
        return run_one(options.path, options.one)
    with tempfile.TemporaryDirectory() as folder:
        log = make_log(options.events)
        users = log["user_id"].nunique()
        by_time, shuffled = Path(folder) / "by_time.parquet", Path(folder) / "shuffled.parquet"
        log.to_parquet(by_time)
        # times are made different, so that the right order is the same for all
        moments = log["timestamp"] + pd.to_timedelta(np.arange(len(log)) % 1_000_000, unit="us")
        log.assign(timestamp=moments).sample(frac=1, random_state=0).to_parquet(shuffled)
        del log, moments
        turns = dict.fromkeys(CONTESTANTS, options.repeats)
        rows = report(options.events, take_turns(__file__, by_time, turns), "by time")
        turns = dict.fromkeys(["seqbook", "plain NumPy"], options.repeats)
        rows += report(options.events, take_turns(__file__, shuffled, turns), "shuffled")
    show(rows)
    if options.save:
        save(
            "sequences",
            rows,
            {"events": f"{options.events:,}", "users": f"{users:,}", "repeats": options.repeats},
        )


if __name__ == "__main__":
    main()
