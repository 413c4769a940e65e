"""The front page and README.md: every chapter is linked, every link leads somewhere."""

import re
from pathlib import Path

import chapters
import readme

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def test_every_chapter_is_linked_from_the_front_page():
    """The table of chapters names each chapter once, and in reading order."""
    text = "".join(cell["source"] for cell in chapters.read(chapters.NBS / "index.ipynb")["cells"])
    table = [link for line in text.splitlines() if line.startswith("|") for link in LINK.findall(line)]
    book = [path.relative_to(chapters.NBS).as_posix() for path in chapters.chapters()]
    assert table == [name for name in book if name != "index.ipynb"]


def test_links_of_the_readme_lead_somewhere():
    """Links are to files of the repository, seen from its root."""
    links = LINK.findall(readme.readme())
    assert len(links) >= 10
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_links_are_moved_to_the_root():
    """A link beside the notebook, one above it, one elsewhere, and one within the page."""
    text = '[a](data/a.ipynb) [b](../LICENSE) [c](https://x.y) [d](#e) <img src="f.svg">'
    moved = '[a](nbs/data/a.ipynb) [b](LICENSE) [c](https://x.y) [d](#e) <img src="nbs/f.svg">'
    assert readme.RELATIVE.sub(readme.from_root, text) == moved
