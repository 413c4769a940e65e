"""Next-item models at published strength: the published files and protocols, all items ranked.

Each run (data, model, seed) may be killed and started again: it goes on from its checkpoint, and a run that
has ended is not repeated. Several processes may work at the same time:

    python benchmarks/next_item.py --data FOLDER --only beauty
    python benchmarks/next_item.py --data FOLDER --save          # whatever is left, then the tables

FOLDER holds s3rec_Beauty.txt.gz, srgnn_diginetica_train_seq.txt.gz, srgnn_diginetica_test.txt.gz and
rsc15_clicks_100k.csv.gz. Settings were chosen on validation data; README.md says how.
"""

import argparse
import importlib.metadata
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np
import pandas as pd
from results import machine, save, show_tables

from seqbook.data.datasets import load_next_item, load_sessions
from seqbook.data.sequences import SequenceEncoder, Sequences
from seqbook.evaluation.ranking import ranking_metrics
from seqbook.models import next_item
from seqbook.models.next_item import leave_one_out
from seqbook.models.training import find_device


@dataclass
class Task:
    """What is learned from, what is asked, and how the answer is measured."""

    train: Sequences
    test: tuple  # histories, and the items that came next
    validation: tuple | None
    k: int
    exclude_seen: bool


def beauty(folder: Path) -> Task:
    """Amazon Beauty as S3-Rec prepared it: a user's last event is the test, the one before validation."""
    log = load_next_item(folder / "s3rec_Beauty.txt.gz")
    X = SequenceEncoder(fields=("item_id",)).fit(log).encode(log)
    validation = leave_one_out(X, 2)
    return Task(validation[0], leave_one_out(X, 1), validation, 10, exclude_seen=True)


def diginetica(folder: Path) -> Task:
    """Diginetica as SR-GNN prepared it: every prefix of each test session; all of training is learned."""
    log = load_sessions(folder / "srgnn_diginetica_train_seq.txt.gz")
    encoder = SequenceEncoder(fields=("item_id",)).fit(log)
    test = load_sessions(folder / "srgnn_diginetica_test.txt.gz")
    sessions, asked = (encoder.encode(part, by="session_id") for part in (log, test))
    return Task(sessions, prefixes(asked), None, 20, exclude_seen=False)


def rsc15(folder: Path) -> Task:
    """RSC15 clicks as session-rec prepared them: every prefix of every test session."""
    clicks = pd.read_csv(folder / "rsc15_clicks_100k.csv.gz")
    log = pd.DataFrame(
        {
            "user_id": clicks["SessionId"],
            "session_id": clicks["SessionId"],
            "timestamp": pd.to_datetime(clicks["Time"], unit="s"),
            "behavior": "view",
            "item_id": clicks["ItemId"],
        }
    )
    train, test = (log[clicks["split"] == part] for part in ("train", "test"))
    encoder = SequenceEncoder(fields=("item_id",)).fit(train)
    sessions = encoder.encode(train, by="session_id")
    begin = train.groupby("session_id")["timestamp"].min().sort_values()
    order = pd.Series(np.arange(len(sessions)), sessions.ids)[
        begin.index
    ]  # the last ones are the most recent
    asked = prefixes(encoder.encode(test, by="session_id"))
    return Task(sessions[order.to_numpy()], asked, None, 20, exclude_seen=False)


def prefixes(X: Sequences) -> tuple[Sequences, np.ndarray]:
    """Each prefix of each sequence, and the item that came next."""
    n = np.maximum(X.lengths - 1, 0)
    starts, number = np.repeat(X.offsets[:-1], n), np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    target = X.vocabularies["item"].decode(X.fields["item"][starts + number + 1])
    return X._stretches(starts, number + 1, np.arange(len(starts))), target


TASKS = {"beauty": beauty, "diginetica": diginetica, "rsc15": rsc15}
SETTINGS = json.loads((Path(__file__).parent / "next_item_settings.json").read_text(encoding="utf-8"))


def run(name: str, model: str, seed: int, task: Task, folder: Path) -> dict:
    """Fit one model and measure it, or read what an earlier process found."""
    path = folder / f"{name}-{model}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    setting = SETTINGS[name]["models"][model]
    options = dict(setting["options"])
    fitted = getattr(next_item, setting["class"])(**options)
    if isinstance(fitted, next_item.NextItemNetwork):
        fitted.set_params(seed=seed, exclude_seen=task.exclude_seen, checkpoint=folder / path.stem)
    started = time.perf_counter()
    fitted.fit(task.train, task.validation)
    seconds, started = time.perf_counter() - started, time.perf_counter()
    ranks = fitted.target_ranks(*task.test, exclude_seen=task.exclude_seen)
    found = {
        "data": name,
        "model": model,
        "seed": seed,
        "options": options,
        "metrics": dict(ranking_metrics(ranks, task.k)),
        "epochs": len(getattr(fitted, "history_", ())),
        "best epoch": getattr(fitted, "best_epoch_", None),
        "seconds to fit": seconds,
        "seconds to rank": time.perf_counter() - started,
        "device": find_device() if isinstance(fitted, next_item.NextItemNetwork) else {"kind": "cpu"},
        "machine": machine(),
        "versions": {p: version(p) for p in ("keras", "tensorflow", "jax", "torch", "numpy")},
    }
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def version(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Mean and standard deviation over seeds, in per cent, beside the published figures."""
    rows, own = [], runs[runs["data"] == name]
    for model in own["model"].unique():
        values = pd.DataFrame([*own.loc[own["model"] == model, "metrics"]]) * 100
        n = len(values)
        shown = {m: f"{v.mean():.2f}" + (f" ± {v.std():.2f}" if n > 1 else "") for m, v in values.items()}
        rows.append({"model": model, "from": f"ours, {n} seed{'s' if n > 1 else ''}", **shown})
    for published in SETTINGS[name]["published"]:
        rows.append({"model": published["model"], "from": published["source"], **published["metrics"]})
    kept = [m for m in rows[0] if m in {"model", "from", *SETTINGS[name]["metrics"]}]
    return pd.DataFrame(rows)[kept].fillna("")


def where(runs: pd.DataFrame) -> str:
    """What the networks were trained on."""
    devices = {f"{d['name']} under {d['backend']}" for d in runs["device"] if "name" in d}
    return ", ".join(sorted(devices)) or "CPU"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--only", nargs="*", help="data sets, or 'data/model'; default: all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the networks")
    parser.add_argument("--runs", type=Path, default=Path("benchmarks/runs"), help="folder of finished runs")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    found = []
    for name, make in TASKS.items():
        task = None
        for model, setting in SETTINGS[name]["models"].items():
            if options.only and not {name, f"{name}/{model}"} & set(options.only):
                continue
            task = task or make(options.data)
            network = issubclass(getattr(next_item, setting["class"]), next_item.NextItemNetwork)
            for seed in options.seeds if network else [0]:
                found.append(run(name, model, seed, task, options.runs))
                print(
                    name, model, seed, {k: round(v, 4) for k, v in found[-1]["metrics"].items()}, flush=True
                )
    runs = pd.DataFrame(found)
    tables = {SETTINGS[name]["caption"]: table(runs, name) for name in TASKS if (runs["data"] == name).any()}
    show_tables(tables)
    if options.save:
        settings = {"networks trained on": where(runs), "seeds": len(options.seeds)}
        save("next_item", [], settings, tables)


if __name__ == "__main__":
    main()
