"""What the scripts know about chapters: reading order, what a reader sees, what outputs depend on."""

import json

import chapters
import pytest


def notebook(*sources: tuple[str, str]) -> str:
    """A notebook with cells of (kind, source)."""
    cells = [{"cell_type": kind, "metadata": {}, "source": source, "outputs": []} for kind, source in sources]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A small book of its own: a package with three modules, and a function that writes a chapter."""
    modules = {
        "__init__": "",
        "data/__init__": "",
        "data/a": "import numpy\nX = 1\n",
        "data/b": "from lib.data.a import X\n",
        "data/c": "from . import b\nimport lib.data.c\n",
    }
    for name, text in modules.items():
        path = tmp_path / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "nbs" / "data").mkdir(parents=True)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "NBS", tmp_path / "nbs")
    monkeypatch.setattr(chapters, "settings", lambda: {"lib_path": "lib"})
    chapters.imports.cache_clear()

    def write(name: str, *sources: tuple[str, str]):
        (tmp_path / "nbs" / name).write_text(notebook(*sources))
        return tmp_path / "nbs" / name

    yield write
    chapters.imports.cache_clear()


def test_reading_order(book):
    """The front page and the tour come first, then the parts; drafts and checkpoints are no chapters."""
    names = ["data/02_b.ipynb", "data/01_a.ipynb", "job.ipynb", "tour.ipynb", "index.ipynb", "_draft.ipynb"]
    for name in names:
        book(name)
    found = [str(path.relative_to(chapters.NBS)) for path in chapters.chapters()]
    assert found == ["index.ipynb", "tour.ipynb", "job.ipynb", "data/01_a.ipynb", "data/02_b.ipynb"]


def test_imports_follow_modules_to_their_modules(book):
    """Imports are followed, also relative and circular ones; other packages and magics are not."""
    source = "%matplotlib inline\n!ls\nimport pandas\nfrom lib.data import c\n"
    assert chapters.imports(source) == {"lib.data", "lib.data.c"}
    assert chapters.closure(chapters.imports(source)) >= {"lib.data.a", "lib.data.b", "lib.data.c"}
    assert chapters.closure(chapters.imports("import lib.data.a")) == {"lib.data.a"}


def test_fingerprint_sees_code_and_modules_and_not_prose(book):
    """A change of code or of any imported module shows; one of prose or of another module does not."""
    path = book("data/01_a.ipynb", ("markdown", "# A"), ("code", "from lib.data.b import X"))
    before = chapters.fingerprint(path)
    book("data/01_a.ipynb", ("markdown", "# B"), ("code", "from lib.data.b import X"))
    (chapters.ROOT / "lib" / "data" / "c.py").write_text("changed = 1\n")
    assert chapters.fingerprint(path) == before
    (chapters.ROOT / "lib" / "data" / "a.py").write_text("X = 2\n")
    after = chapters.fingerprint(path)
    assert after["code"] == before["code"] and after["modules"] != before["modules"]
    book("data/01_a.ipynb", ("markdown", "# B"), ("code", "from lib.data.b import X\nX"))
    assert chapters.fingerprint(path)["code"] != before["code"]


def test_visible_cells_lose_their_directives():
    """Hidden cells and cells of directives alone are left out; what stays has no directive line."""
    cells = json.loads(
        notebook(
            ("code", "#| default_exp data.a"),
            ("code", "#| hide\nimport os"),
            ("code", "#| export \n#| code-fold: true\ndef f():\n    '#| not a directive'"),
            ("markdown", "#| text"),
        )
    )["cells"]
    shown = chapters.visible(cells)
    assert [cell["source"] for cell in shown] == ["def f():\n    '#| not a directive'", "#| text"]
    assert "export" in shown[0]["said"] and shown[1]["said"] == {}
