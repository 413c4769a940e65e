"""Save what a benchmark measured, and write the table of benchmarks/README.md from all that was saved.

`python benchmarks/results.py` writes the table again; each benchmark does so when it saves.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy.stats import t as student

import seqbook

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
PACKAGES = """numpy pandas scipy scikit-learn lightgbm hmmlearn python-crfsuite statsmodels econml duckdb
pyarrow keras tensorflow jax torch""".split()


def machine() -> dict:
    """Processor, cores, memory and system."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": cores,
        "memory_gb": round(pages / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict:
    """Versions of the packages that matter, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(name: str, rows: list, settings: dict, tables: dict = None) -> Path:
    """Save rows of (what, value, unit) under the benchmark's name, and bring the README up to date.

    `tables`: caption -> a DataFrame of texts, for results that need more than three columns."""
    RESULTS.mkdir(exist_ok=True)
    contents = {
        "benchmark": name,
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "rows": [dict(zip(("what", "value", "unit"), row, strict=True)) for row in rows],
        "tables": {caption: wide.to_dict("split", index=False) for caption, wide in (tables or {}).items()},
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    write_table()
    return path


def show(rows: list):
    """Print rows of (what, value, unit)."""
    wide = max(len(what) for what, _, _ in rows)
    for what, value, unit in rows:
        print(f"{what:<{wide}}  {number(value):>12} {unit}")


def show_tables(tables: dict):
    """Print tables by their captions."""
    for caption, wide in tables.items():
        print(f"\n{caption}\n\n{wide.to_string(index=False)}")


def number(value: float) -> str:
    """A number with three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table() -> str:
    """All saved results in Markdown."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        on, used = saved["machine"], ", ".join(f"{k} {v}" for k, v in saved["versions"].items())
        settings = ", ".join(f"{k} {v}" for k, v in saved["settings"].items())
        parts += [
            f"### {saved['benchmark']}",
            "",
            f"{saved['date']}; {on['processor']}, {on['cores']} cores, {on['memory_gb']} GB, {on['system']}; "
            f"Python {on['python']}, {used}. Settings: {settings}.",
            "",
        ]
        rows = [[row["what"], number(row["value"]), row["unit"]] for row in saved["rows"]]
        parts += grid(["what", "value", "unit"], rows, "|---|---:|---|") if rows else []
        for caption, wide in saved.get("tables", {}).items():
            parts += [f"*{caption}*", "", *grid(wide["columns"], wide["data"])]
    return "\n".join(parts)


def grid(columns: list, rows: list, rule: str = None) -> list:
    """The lines of a table in Markdown."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in [columns, *rows]]
    return [lines[0], rule or "|---" * len(columns) + "|", *lines[1:], ""]


def write_table():
    """Put the table between the two marks of the README."""
    text = README.read_text(encoding="utf-8")
    start, end = "<!-- results: made by results.py -->", "<!-- end of results -->"
    before, rest = text.split(start)
    README.write_text(f"{before}{start}\n\n{table()}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def kept(folder: Path, what: tuple, result) -> dict:
    """The result that was kept of just this, by this code and these versions; else made now, and kept."""
    files = (Path(sys.argv[0]), *sorted(Path(seqbook.__file__).parent.rglob("*.py")))
    code = [path.read_bytes() for path in files]
    path = folder / f"{joblib.hash((what, code, versions()))}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(result()))
        draft.replace(path)
    return json.loads(path.read_text())


def spoken(values, digits: int = 3, sign: str = "") -> str:
    """Mean of a few independent numbers, such as one a shop, and Student's 95 % interval of it."""
    values = np.asarray(values, float)
    mean, n = values.mean(), len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5 if n > 1 else np.nan
    return f"{mean:{sign}.{digits}f} ({mean - half:{sign}.{digits}f} to {mean + half:{sign}.{digits}f})"


def run_parts(name: str, parts: dict, options, settings) -> None:
    """Run the parts that were asked for, each with its own result; `settings(part)` gives its settings."""
    for part in options.part or parts:
        start, tables = time.perf_counter(), parts[part](options)
        show_tables(tables)
        print(f"\n{part}: {time.perf_counter() - start:.0f} s in this run")
        if options.save:
            save(f"{name}_{part}", [], {"seed": options.seed, **settings(part)}, tables)


def child(script: str, *arguments: str) -> dict:
    """Run a script in a process of its own; its last line is JSON."""
    command = [sys.executable, script, *arguments]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=quiet)
    return json.loads(done.stdout.splitlines()[-1])


def peak_gb() -> float:
    """The most memory that this process has had (resident), in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` of Linux counts the parent's peak too
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def contest_options(doc: str, contestants):
    """The options of a benchmark of several contestants; `one` and `path` are for the process of one."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000, help="rows of the log")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    parser.add_argument("--one", choices=contestants, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    return parser.parse_args()


def take_turns(script: str, path: Path, turns: dict, rtol: float = 0) -> dict:
    """Name of a contestant -> the medians of its numbers: so many turns each, each in a process of its own.

    `script --one NAME --path PATH` prints them as JSON, with a `sum` that must be the same for all."""
    found = {name: [] for name in turns}
    for turn in range(max(turns.values())):
        for name in (name for name, most in turns.items() if turn < most):
            run = child(script, "--one", name, "--path", str(path))
            print(f"  {path.stem}, turn {turn + 1}: {name} {run['seconds']:.2f} s", file=sys.stderr)
            found[name].append(run)
    sums = [run.pop("sum") for runs in found.values() for run in runs]
    if not all(np.allclose(one, sums[0], rtol=rtol, atol=0) for one in sums):
        sys.exit(f"the contestants do not agree: {sums}")
    return {name: pd.DataFrame(runs).median().to_dict() for name, runs in found.items()}


if __name__ == "__main__":
    write_table()
