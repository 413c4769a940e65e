"""Which chapters have to run again, and that two runs at once lose nothing."""

import json
import sys
from pathlib import Path
from subprocess import Popen

import book
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A record file and two chapters that need not exist."""
    monkeypatch.setattr(book, "NBS", tmp_path)
    monkeypatch.setattr(book, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(book, "chapters", lambda: [tmp_path / "a.ipynb", tmp_path / "b.ipynb"])
    monkeypatch.setattr(book, "fingerprint", lambda path: {"code": path.stem, "modules": "m"})
    return tmp_path / "record.json"


def test_stale_says_what_changed(record):
    """No record: all are due. Then only those whose code or modules changed, also after a torn record."""
    assert book.stale() == {"a.ipynb": ["code", "modules"], "b.ipynb": ["code", "modules"]}
    book.note("a.ipynb", {"code": "a", "modules": "m"})
    book.note("b.ipynb", {"code": "b", "modules": "older"})
    assert book.stale() == {"b.ipynb": ["modules"]}
    record.write_text("")
    assert set(book.stale()) == {"a.ipynb", "b.ipynb"}


def test_chapters_that_are_gone_are_forgotten(record):
    """The record holds the book's chapters and no other."""
    record.write_text(json.dumps({"gone.ipynb": {"code": "x", "modules": "y"}}))
    book.note("a.ipynb", {"code": "a", "modules": "m"})
    assert json.loads(record.read_text()) == {"a.ipynb": {"code": "a", "modules": "m"}}


def test_runs_at_the_same_time_lose_no_note(tmp_path):
    """Processes that note chapters at once leave all of them in the record."""
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import book
folder, mine = Path(sys.argv[2]), sys.argv[3]
book.NBS, book.RECORD = folder, folder / "record.json"
book.chapters = lambda: [folder / f"{who}{n}.ipynb" for who in "ab" for n in range(30)]
for n in range(30):
    book.note(f"{mine}{n}.ipynb", {"code": mine, "modules": ""})
"""
    runs = [Popen([sys.executable, "-c", program, str(SCRIPTS), str(tmp_path), who]) for who in "ab"]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert len(json.loads((tmp_path / "record.json").read_text())) == 60


def test_progress_bars_are_not_outputs():
    """Progress bars, as text and as widgets, are left out; other errors and texts stay."""
    bar = {"output_type": "stream", "name": "stderr", "text": " 50%|#####     | 1/2"}
    warning = {"output_type": "stream", "name": "stderr", "text": "UserWarning: 50% of it"}
    widget = {"output_type": "display_data", "data": {book.PROGRESS: {}}}
    table = {"output_type": "execute_result", "data": {"text/plain": "1"}}
    assert [book.is_progress(output) for output in (bar, warning, widget, table)] == [
        True,
        False,
        True,
        False,
    ]
