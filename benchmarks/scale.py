"""A log in a Parquet file, larger than one likes to hold in memory, to sequences: seconds and peak memory.

The simulated shop writes the log block by block; then one process fits an encoder on the file and encodes it.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from results import child, peak_gb, save, show

EVENTS_A_USER = 29  # about what `write_shop` gives in 120 days


def write(path: str, users: int):
    """Write the log; prints JSON."""
    from seqbook.data.datasets import write_shop

    started = time.perf_counter()
    events = write_shop(path, n_users=users)
    print(json.dumps({"events": events, "seconds": time.perf_counter() - started, "peak": peak_gb()}))


def encode(path: str, memory_limit: str):
    """Fit and encode; prints JSON."""
    from seqbook.data.sequences import SequenceEncoder

    before, started = peak_gb(), time.perf_counter()
    encoder = SequenceEncoder().fit(path)
    fitted = time.perf_counter()
    sequences = encoder.encode(path, memory_limit=memory_limit)
    done = time.perf_counter()
    size = sum(values.nbytes for values in sequences.fields.values()) + sequences.offsets.nbytes
    found = {"events": int(sequences.offsets[-1]), "sequences": len(sequences), "size": size / 1e9}
    timing = {"fit": fitted - started, "encode": done - fitted, "before": before, "peak": peak_gb()}
    longest = int(sequences.lengths.max())
    print(json.dumps({**found, **timing, "padded": size / found["events"] * len(sequences) * longest / 1e9}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=50_000_000, help="rows of the log, about")
    parser.add_argument("--memory-limit", default="4GB", help="what DuckDB may use while it sorts")
    parser.add_argument("--folder", help="where the log is written; default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    parser.add_argument("--step", choices=("write", "encode"), help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    users = max(options.events // EVENTS_A_USER, 1)
    if options.step:
        return (
            write(options.path, users)
            if options.step == "write"
            else encode(options.path, options.memory_limit)
        )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        need, free = 150 * options.events / 1e9, shutil.disk_usage(folder).free / 1e9
        if free < need:
            sys.exit(
                f"{folder} has {free:.0f} GB free, the log and the sort need about {need:.0f}; pass --folder"
            )
        path = str(Path(folder) / "log.parquet")
        made = child(__file__, "--step", "write", "--path", path, "--events", str(options.events))
        gigabytes = Path(path).stat().st_size / 1e9
        found = child(__file__, "--step", "encode", "--path", path, "--memory-limit", options.memory_limit)
    if found["events"] != made["events"]:
        sys.exit(f"{made['events']:,} events were written, {found['events']:,} came back")
    rows = [
        ("events", found["events"] / 1e6, "million"),
        ("sequences", found["sequences"] / 1e6, "million"),
        ("most memory, fitting and encoding", found["peak"], "GB"),
        ("of it, before the first row was read", found["before"], "GB"),
        ("the sequences", found["size"], "GB"),
        ("padded to the longest they would be", found["padded"], "GB"),
        ("fitting", found["fit"], "s"),
        ("encoding", found["encode"], "s"),
        ("events a second, both", found["events"] / (found["fit"] + found["encode"]) / 1e6, "million"),
        ("the file", gigabytes, "GB"),
        ("writing the file", made["seconds"], "s"),
        ("most memory, writing the file", made["peak"], "GB"),
    ]
    show(rows)
    if options.save:
        save("scale", rows, {"events": f"{options.events:,}", "memory limit of DuckDB": options.memory_limit})


if __name__ == "__main__":
    main()
