"""Run the chapters whose sources changed since their outputs were saved, and save the new outputs.

What counts as a source: the chapter's own cells and every module of the package that it imports.
`--all` runs every chapter; names run the chapters that contain them; `--mark` runs nothing and notes that
the saved outputs are those of the present sources.
"""

import json
import sys
import time

import nbformat
from chapters import NBS, ROOT, chapters, fingerprint, read, write
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
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    nbformat.write(notebook, path)
    plain = read(path)
    clean_nb(plain)
    write(path, plain)


def main(arguments: list[str]):
    """Bring every chapter's outputs up to date."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    names = {str(path.relative_to(NBS)): path for path in chapters()}
    words = [argument for argument in arguments if not argument.startswith("--")]
    stale = [
        name
        for name, path in names.items()
        if (
            any(word in name for word in words)
            if words
            else "--all" in arguments or record.get(name) != fingerprint(path)
        )
    ]
    print(f"{len(stale)} of {len(names)} chapters have changed", flush=True)
    for name in (bar := tqdm(stale, unit="chapter", disable=not stale)):
        bar.set_postfix_str(name)
        start = time.monotonic()
        if "--mark" not in arguments:
            try:
                execute(names[name])
            except CellExecutionError as error:
                sys.exit(
                    f"\n{(NBS / name).relative_to(ROOT)} stopped; its saved outputs are as before\n{error}"
                )
            bar.write(f"{time.monotonic() - start:6.1f} s  {name}")
        record[name] = fingerprint(names[name])
        kept = {key: record[key] for key in sorted(record) if key in names}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
