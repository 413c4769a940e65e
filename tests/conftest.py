"""What every test shares."""

import os
from pathlib import Path

import pytest

collect_ignore = ["evaluation/rectools_values.py"]  # a script for an environment of its own
DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.fixture
def real_data():
    """From a file name to the path of that real data set; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in {DATA}; set SEQBOOK_DATA to the folder that has it")
        return path

    return find
