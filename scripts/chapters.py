"""What the scripts know about chapters: where they are, what their cells say, what they depend on."""

import ast
import hashlib
import json
import re
from configparser import ConfigParser
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
PARTS = {
    "": "Start",
    "data": "Data",
    "models": "Models",
    "evaluation": "Evaluation",
    "applications": "Applications",
    "production": "Production",
}
START = ("index", "tour", "job", "cli")  # the other parts number their chapters
DIRECTIVE = re.compile(r"^#\|[ \t]*([\w-]+)(?:[: ][ \t]*(.*))?$", re.MULTILINE)


@cache
def settings():
    """The fields of settings.ini."""
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def chapters() -> list[Path]:
    """Every notebook of the book in reading order."""
    order = list(PARTS)

    def key(path: Path):
        part = part_of(path)
        first = START.index(path.stem) if part == "" and path.stem in START else len(START)
        return order.index(part) if part in order else len(order), part, first, path.stem

    found = (path for path in NBS.rglob("*.ipynb") if not re.search(r"(^|/)[._]", str(path.relative_to(NBS))))
    return sorted(found, key=key)


def part_of(path: Path) -> str:
    """The part of the book that a notebook stands in: its folder."""
    return "" if path.parent == NBS else path.relative_to(NBS).parts[0]


def title_of(part: str) -> str:
    """The name of a part in the sidebar."""
    return PARTS.get(part, part.replace("_", " ").capitalize())


def read(path: Path) -> dict:
    """A notebook as plain data, each cell's source one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def write(path: Path, notebook: dict):
    """Write a notebook as nbdev does."""
    path.write_text(
        json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def directives(cell: dict) -> dict[str, str]:
    """The `#| name value` lines of a code cell."""
    return {name: (value or "").strip() for name, value in DIRECTIVE.findall(cell["source"])}


FOLDED = {"jupyter": {"source_hidden": True}}  # how JupyterLab marks a cell whose source is folded away


def fold_hidden(notebook: dict):
    """Fold the cells away in JupyterLab that the site does not show: some hold the answers of exercises."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"] = FOLDED if "hide" in directives(cell) else {}


def visible(cells: list[dict]) -> list[dict]:
    """The cells that a reader sees, without the lines that only nbdev reads."""
    shown = []
    for cell in cells:
        said = directives(cell) if cell["cell_type"] == "code" else {}
        if "hide" in said:
            continue
        source = DIRECTIVE.sub("", cell["source"]).strip() if said else cell["source"]
        if source.strip():
            shown.append({**cell, "source": source, "said": said})
    return shown


def module_path(module: str) -> Path | None:
    """The file of a module of the package."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


@cache
def imports(source: str, package: str = "") -> frozenset[str]:
    """The package's own modules that Python source imports, itself or through others."""
    lib, found = settings()["lib_path"], set()
    code = re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(name for name in names if name.split(".")[0] == lib and module_path(name))
    return frozenset(found)


def closure(modules: frozenset[str]) -> set[str]:
    """Modules with all modules of the package that they import."""
    seen, ahead = set(), list(modules)
    while ahead:
        module = ahead.pop()
        if module not in seen:
            seen.add(module)
            path = module_path(module)
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            ahead.extend(imports(path.read_text(encoding="utf-8"), package))
    return seen


def fingerprint(path: Path) -> dict[str, str]:
    """Hashes of what a chapter's outputs depend on: its own code, and the modules that it imports."""
    cells = [cell["source"] for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    modules = sorted(closure(imports("\n".join(cells))))
    texts = {"code": cells, "modules": [module_path(name).read_text(encoding="utf-8") for name in modules]}
    return {kind: hashlib.sha256("\0".join(text).encode()).hexdigest()[:16] for kind, text in texts.items()}
