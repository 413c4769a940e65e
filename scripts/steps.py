"""Run make targets one after another; stop at the first that fails; print what each took."""

import subprocess
import sys
import time

took = {}


def report() -> str:
    """One line a step."""
    return "\n".join(f"{seconds:7.1f} s  make {step}" for step, seconds in took.items())


for step in sys.argv[1:]:
    print(f"\n=== make {step}", flush=True)
    start = time.monotonic()
    status = subprocess.call(["make", "--no-print-directory", step])
    took[step] = time.monotonic() - start
    if status:
        print(f"\n{report()}\n\nmake {step} failed; repeat just that with: make {step}", flush=True)
        sys.exit(1)
print(f"\n{report()}\n{sum(took.values()):7.1f} s  in all: every check passed", flush=True)
