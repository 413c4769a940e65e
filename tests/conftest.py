"""What every test shares."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what JAX compiles serves all processes of a test run
    compiled = tempfile.mkdtemp(prefix="seqbook-jax-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# what ranx is asked here takes a second, and half a minute where Numba compiles it
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# compiling takes most of the time of what runs on JAX here, so little is optimised
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# scripts for environments of their own
collect_ignore = [
    "applications/sklift_values.py",
    "applications/statsforecast_values.py",
    "evaluation/rectools_values.py",
]
DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What was there before, TensorFlow above all, is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def real_data():
    """From a file name to the path of that real data set; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in {DATA}; set SEQBOOK_DATA to the folder that has it")
        return path

    return find
