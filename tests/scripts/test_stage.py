"""From notebook cells to pages: signatures, parameters, links, callouts, folds."""

import ast
import json

import chapters
import pytest
import stage


def function(source: str) -> ast.AST:
    """The first definition in source."""
    return ast.parse(source).body[0]


def test_comments_become_parameters():
    """Each comment explains the parameter beside it; the last one tells the result."""
    source = '''
def f(
    frame,  # the log
    *,
    gap="30min",  # silence that ends a session
    fields=(
        "a",
        "b",
    ),  # what to read
    plain=1,
    **more,  # passed on
) -> int:  # how many
    """Count."""
    return 1  # not a parameter
'''
    node = function(source)
    assert stage.parameters(node, source) == [
        ("frame", "the log"),
        ("gap", "silence that ends a session"),
        ("fields", "what to read"),
        ("more", "passed on"),
    ]
    assert stage.returned(node, source) == ["how many"]


def test_fields_of_a_dataclass_are_its_parameters():
    """Fields are explained as parameters are, and shown as what the class is called with."""
    fields = ["x: int  # one", "y: dict = field(default_factory=dict)  # two", "z: int = 3"]
    source = "\n    ".join(["@dataclass\nclass A:", *fields])
    node = function(source)
    assert stage.parameters(node, source) == [("x", "one"), ("y", "two")]
    assert stage.class_signature(node) == "(x: int, y: dict = ..., z: int = 3)"


@pytest.mark.parametrize(
    ("source", "skip", "expected"),
    [
        ("def f(self, a, b=1, *, c: int = 2) -> str: ...", True, "(a, b=1, *, c: int=2) -> str"),
        ("def f(self=None, a=1): ...", True, "(a=1)"),
        ("def f(a, /, b): ...", False, "(a, /, b)"),
        ("def f(self): ...", True, "()"),
    ],
)
def test_signature(source, skip, expected):
    """Signatures are those of the source, without self where it is bound."""
    assert stage.signature(function(source), skip_first=skip) == expected


def test_docstring_examples_become_code():
    """A doctest in a docstring is set as code, and the text after it is not."""
    node = function('def f():\n    """One.\n\n    >>> f()\n    1\n\n    Two."""')
    assert stage.docstring(node).split("\n") == [
        "One.",
        "",
        "",
        "```pycon",
        ">>> f()",
        "1",
        "```",
        "",
        "Two.",
    ]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The names of a small book: one function in two modules, a class with a method, a constant."""
    monkeypatch.setattr(
        stage, "settings", lambda: {"lib_path": "lib", "git_url": "https://x", "branch": "main"}
    )
    paths = []
    for module, source in {
        "a": "#| export\ndef load(): ...\nclass Log:\n    def save(self): ...\nUSER = 'u'\n_SECRET = 1",
        "b": "#| export\ndef load(): ...\n@patch\ndef plot(self: Log): ...",
    }.items():
        cells = [
            {"cell_type": "code", "metadata": {}, "source": text, "outputs": []}
            for text in (f"#| default_exp data.{module}", source)
        ]
        path = tmp_path / f"{module}.ipynb"
        path.write_text(json.dumps({"cells": cells, "metadata": {}}))
        paths.append(path)
    return stage.Names(paths)


def test_names_are_found_where_they_are_clear(names):
    """The chapter's own name wins; a name of two modules is nobody's elsewhere."""
    assert names.find("load", "lib.data.a") == "lib.data.a.load"
    assert names.find("load", "lib.other") is None
    assert names.find("data.b.load", "lib.other") == "lib.data.b.load"
    assert names.find("Log.save", "lib.other") == "lib.data.a.Log.save"
    assert names.find("Log.plot", "lib.other") == "lib.data.b.Log.plot"
    assert names.find("lib.data.a", "") == "lib.data.a"
    assert names.find("_SECRET", "lib.data.a") is None


def test_prose_links_names_and_leaves_code_alone(names):
    """Names in backticks become links, but not in headings, links, code or HTML."""
    text = "# `USER`\n\n`USER` and `load()` and `other`; [`USER`](x.md)\n\n```python\n`USER`\n```"
    expected = (
        "# `USER`\n\n{py:obj}`USER <lib.data.a.USER>` and {py:obj}`load() <lib.data.a.load>` and `other`; "
        "[`USER`](x.md)\n\n```python\n`USER`\n```"
    )
    assert stage.prose(text, "lib.data.a", names) == expected


def test_callouts_diagrams_and_solutions(names):
    """Each becomes what Sphinx draws, and Markdown goes on after it."""
    assert (
        stage.prose("> **Note.** One\n> two.\n\nThree.", "", names) == ":::{note}\nOne\ntwo.\n:::\n\nThree."
    )
    assert stage.prose("> Said someone.", "", names) == "> Said someone."
    drawn = stage.prose("```mermaid\ngraph LR\n  a --> b\n```", "", names)
    assert drawn.startswith('```{raw} html\n<pre class="mermaid">\ngraph LR\n  a --&gt; b')
    folded = stage.prose(
        "<details><summary>Solution</summary>\n`USER`\n</details>\nAfter.", "lib.data.a", names
    )
    assert "</summary>\n\n{py:obj}`USER <lib.data.a.USER>`\n\n</details>\n" in folded
    assert "(<https://x/blob/main/LICENSE>)" in stage.prose("[a](../LICENSE)", "", names)


@pytest.mark.parametrize(
    ("source", "directive", "expected"),
    [
        ("import os\nfrom a import b", "export", "imports"),
        ("import os", "", ""),
        ("def f(): ...", "export", ""),
        ("def _f(): ...", "export", "code of _f (1 lines)"),
        ("A, B = 1, 2", "exporti", "code of A, B (1 lines)"),
        ("def f():\n" + "    pass\n" * stage.FOLD_OVER, "export", f"code of f ({stage.FOLD_OVER + 1} lines)"),
    ],
)
def test_what_is_folded(source, directive, expected):
    """Imports, helpers and long exported code are folded, and code that a chapter shows is not."""
    assert stage.fold(source, {directive: ""} if directive else {}) == expected


def test_cells_of_the_book_keep_their_code_on_the_site():
    """Every code cell that a reader may see is on its page, word for word."""
    for path in chapters.chapters():
        page = stage.page(path, stage.Names([]))
        shown = [cell["source"] for cell in page["cells"] if cell["cell_type"] == "code"]
        wanted = [cell["source"] for cell in chapters.visible(chapters.read(path)["cells"])]
        assert [source for source in wanted if source in shown] == shown
        assert len(shown) > 0
