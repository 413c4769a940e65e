"""Run make targets one after another, those joined by + side by side; stop at the first that fails."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

took = {}


def run(target: str, alone: bool) -> int:
    """The exit status of a target; what one of several prints comes whole, when it ends."""
    start = time.monotonic()
    to = {} if alone else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(["make", "--no-print-directory", target], text=True, **to)
    took[target] = time.monotonic() - start
    if not alone:
        print(f"\n=== make {target}\n{done.stdout}", flush=True)
    return done.returncode


def report() -> str:
    """One line a target, and one in all."""
    lines = [f"{seconds:7.1f} s  make {target}" for target, seconds in took.items()]
    return "\n".join(lines + [f"{time.monotonic() - began:7.1f} s  in all"])


began = time.monotonic()
for step in sys.argv[1:]:
    targets = step.split("+")
    print(f"\n=== make {' and '.join(targets)}", flush=True)
    with ThreadPoolExecutor(len(targets)) as pool:
        statuses = list(pool.map(run, targets, [len(targets) == 1] * len(targets)))
    if failed := [target for target, status in zip(targets, statuses, strict=True) if status]:
        print(f"\n{report()}\n\nmake {failed[0]} failed; repeat just that with: make {failed[0]}", flush=True)
        sys.exit(1)
print(f"\n{report()}: every check passed", flush=True)
