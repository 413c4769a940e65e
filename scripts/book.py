"""Run the chapters whose sources changed since their outputs were saved, and save the new outputs.

What counts as a source: the chapter's own code and every module of the package that it imports.
`--all` runs every chapter; names run the chapters that contain them; `--mark` runs nothing and notes that
the saved outputs are those of the present sources.
"""

import fcntl
import json
import sys
import time
from contextlib import contextmanager

import nbformat
from chapters import NBS, ROOT, chapters, fingerprint, fold_hidden, read, write
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from tqdm import tqdm

RECORD = NBS / ".executed.json"
PROGRESS = "application/vnd.jupyter.widget-view+json"


def is_progress(output: dict) -> bool:
    """Whether an output is a progress bar, which says nothing once it is done."""
    if output["output_type"] == "stream":
        return output["name"] == "stderr" and "%|" in "".join(output["text"])
    return PROGRESS in output.get("data", {})


def execute(path):
    """Run one chapter where it stands and save its outputs."""
    before = path.read_bytes()
    notebook = nbformat.reads(before.decode(), as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    if path.read_bytes() != before:
        sys.exit(
            f"\n{path.relative_to(ROOT)} was edited while it ran, and is left as it is; run make book again"
        )
    nbformat.write(notebook, path)
    plain = read(path)
    clean_nb(plain)
    plain["metadata"].pop("widgets", None)  # the progress bars' state
    fold_hidden(plain)
    write(path, plain)


@contextmanager
def record():
    """What the outputs were saved from, chapter by chapter, to change while no other run can."""
    RECORD.touch()
    with RECORD.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = json.loads(file.read() or "{}")
        yield found
        file.seek(0)
        file.truncate()
        file.write(json.dumps(found, indent=1, sort_keys=True) + "\n")


def note(name: str, sources: dict[str, str]):
    """Note from which sources a chapter's outputs were saved; forget chapters that are gone."""
    with record() as found:
        found[name] = sources
        for gone in set(found) - {str(path.relative_to(NBS)) for path in chapters()}:
            del found[gone]


def stale() -> dict[str, list[str]]:
    """The chapters whose saved outputs are not those of their sources, each with what changed since."""
    found = json.loads((RECORD.exists() and RECORD.read_text(encoding="utf-8")) or "{}")
    changed = {}
    for path in chapters():
        name, now = str(path.relative_to(NBS)), fingerprint(path)
        before = found.get(name, {})
        if kinds := [kind for kind, mark in now.items() if before.get(kind) != mark]:
            changed[name] = kinds
    return changed


def main(arguments: list[str]):
    """Bring every chapter's outputs up to date."""
    names = {str(path.relative_to(NBS)): path for path in chapters()}
    words = [argument for argument in arguments if not argument.startswith("--")]
    if words:
        due = [name for name in names if any(word in name for word in words)]
    else:
        due = list(names if "--all" in arguments else stale())
    print(f"{len(due)} of {len(names)} chapters to {'mark' if '--mark' in arguments else 'run'}", flush=True)
    for name in (bar := tqdm(due, unit="chapter", disable=not due)):
        bar.set_postfix_str(name)
        start, sources = time.monotonic(), fingerprint(names[name])
        if "--mark" not in arguments:
            try:
                execute(names[name])
            except CellExecutionError as error:
                where = (NBS / name).relative_to(ROOT)
                sys.exit(f"\n{where} stopped; its saved outputs are as before\n{error}")
            bar.write(f"{time.monotonic() - start:6.1f} s  {name}")
        note(name, sources)


if __name__ == "__main__":
    main(sys.argv[1:])
