"""Write README.md from nbs/index.ipynb; with `--check` only say whether it is in step."""

import json
import re
import sys

import nbformat
from chapters import NBS, ROOT, read, visible
from nbconvert import MarkdownExporter

README = ROOT / "README.md"
RELATIVE = re.compile(r"(\]\(|(?:src|href)=\")(?![a-z]+:|#|/)(\.\./)?([^)\"\s]+)")


def from_root(match: re.Match) -> str:
    """A link that starts in nbs/ as one that starts in the repository's root."""
    opening, up, path = match.groups()
    return f"{opening}{path}" if up else f"{opening}nbs/{path}"


def readme() -> str:
    """The text of README.md."""
    notebook = read(NBS / "index.ipynb")
    cells = [
        {key: value for key, value in cell.items() if key != "said"} for cell in visible(notebook["cells"])
    ]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = RELATIVE.sub(from_root, cell["source"])
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("text/html", None)  # GitHub shows the styles of a table as text
    whole = nbformat.reads(json.dumps({**notebook, "cells": cells}), as_version=4)
    whole.metadata["language_info"] = {"name": "python"}  # so that code is coloured
    text, _ = MarkdownExporter().from_notebook_node(whole)
    return (
        "<!-- Made from nbs/index.ipynb by `make book`: edit that. -->\n\n"
        + re.sub(r"\n{3,}", "\n\n", text).strip()
        + "\n"
    )


def main():
    """Write or check."""
    text = readme()
    if "--check" not in sys.argv:
        README.write_text(text, encoding="utf-8")
    elif not README.exists() or README.read_text(encoding="utf-8") != text:
        sys.exit("README.md is not what nbs/index.ipynb gives; run: .venv/bin/python scripts/readme.py")


if __name__ == "__main__":
    main()
