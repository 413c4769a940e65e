"""Check that modules, notebooks and README.md are in step, in a copy: work in progress is left alone.

A chapter whose code is not that which made its outputs is an error. One whose modules have changed since is
only named: few changes of a module change an output, and two changes that are merged would fail together.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import readme
from book import stale
from chapters import FOLDED, ROOT, chapters, directives, read

# an object's address, or a path on the machine where the chapter ran: neither means a thing to a reader
NOISE = re.compile(r"\bat 0x[0-9a-f]{6,}|(?<![\w/.])/(?:home|root|tmp|work|Users)/[\w.-]+")


def changed(copy: Path) -> list[str]:
    """The files that `nbdev_export` and `nbdev_clean` would change."""
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for folder in ("nbs", "seqbook"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
    files = [
        path
        for folder in ("nbs", "seqbook")
        for path in (copy / folder).rglob("*")
        if path.suffix in (".py", ".ipynb")
    ]
    pairs = [(path, ROOT / path.relative_to(copy)) for path in files]
    return [
        str(old.relative_to(ROOT))
        for new, old in pairs
        if not old.exists() or new.read_bytes() != old.read_bytes()
    ]


def noise(path: Path) -> list[str]:
    """What should not stand in a chapter's saved outputs."""
    notebook, found = read(path), []
    if "widgets" in notebook["metadata"]:
        found.append(f"{path.relative_to(ROOT)}: the state of a progress bar was saved with it")
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code" and "hide" in directives(cell) and cell["metadata"] != FOLDED:
            found.append(
                f"{path.relative_to(ROOT)}, cell {number}: hidden on the site and not folded in JupyterLab"
            )
        for output in cell.get("outputs", []):
            where = f"{path.relative_to(ROOT)}, cell {number}"
            if output["output_type"] == "error":
                found.append(f"{where}: an error was saved as its output")
            elif output.get("name") == "stderr":
                found.append(f"{where}: a warning or a progress bar was saved as its output")
            texts = [
                output.get("text", ""),
                *(value for kind, value in output.get("data", {}).items() if "text" in kind),
            ]
            found += [
                f"{where}: {match} in its output" for text in texts for match in NOISE.findall("".join(text))
            ]
    return found


def main():
    """Stop with a list of what is not in step."""
    with tempfile.TemporaryDirectory() as folder:
        complaints = [
            f"{name} is not in step; run nbdev_export and nbdev_clean" for name in changed(Path(folder))
        ]
    complaints += [complaint for path in chapters() for complaint in noise(path)]
    old = stale()
    complaints += [
        f"{name}: its code has changed since its outputs were saved; run make book"
        for name, kinds in old.items()
        if "code" in kinds
    ]
    if later := [name for name, kinds in old.items() if kinds == ["modules"]]:
        print("modules have changed since these were run; make book runs them again:", *later, sep="\n  ")
    if complaints:
        sys.exit("\n".join(complaints))
    readme.main()
    print(f"{len(chapters())} notebooks, their modules and README.md are in step")


if __name__ == "__main__":
    sys.argv.append("--check")
    main()
