"""Lay the chapters out for Sphinx in docs/_build/source: what readers see of them, with their API entries.

Nothing is imported or run: signatures and docstrings are read off the exported cells. A file is written only
when its content changed, so that Sphinx reads again only what it must.
"""

import ast
import inspect
import io
import re
import shutil
import tokenize
from collections import defaultdict
from html import escape
from pathlib import Path

from chapters import NBS, ROOT, chapters, directives, part_of, read, settings, title_of, visible, write

STAGE = ROOT / "docs" / "_build" / "source"
NAME = re.compile(r"(?<![`\[\\\w}])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")
CALLOUT = re.compile(r"^> \*\*(Note|Tip|Warning|Important|Caution)\.?\*\*\.?[ ]?(.*(?:\n>.*)*)", re.MULTILINE)
OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")  # links to files beside nbs/, which the site does not hold
FENCE = re.compile(r"^( *)(`{3,}|~{3,})")
FOLD_OVER = 40
TAGS = {
    "hide_input": "remove-input",
    "hide_output": "remove-output",
    "collapse_input": "hide-input",
    "collapse_output": "hide-output",
}


# --- what each chapter exports


def definitions(path: Path):
    """(exported code cell, its module, its public definitions) of a chapter, in order."""
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    default = next(
        (said["default_exp"] for cell in cells if "default_exp" in (said := directives(cell))), None
    )
    for cell in cells:
        said = directives(cell)
        if default and ("export" in said or "exports" in said):
            module = f"{settings()['lib_path']}.{said.get('export') or said.get('exports') or default}"
            yield cell, module, public(ast.parse(cell["source"]))


def public(tree: ast.AST) -> list[ast.AST]:
    """The public functions and classes that stand directly in a module's or a class's body."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def decorators(node: ast.AST) -> set[str]:
    """The bare names of a definition's decorators."""
    calls = (item.func if isinstance(item, ast.Call) else item for item in node.decorator_list)
    return {ast.unparse(call).rpartition(".")[2] for call in calls}


def owner(node: ast.AST) -> str:
    """`Class.` of a method that fastcore's `patch` adds to a class, else nothing."""
    if {"patch", "patch_to"} & decorators(node) and node.args.args and node.args.args[0].annotation:
        return ast.unparse(node.args.args[0].annotation).strip("'\"") + "."
    return ""


def constants(tree: ast.AST) -> list[str]:
    """The upper-case names that a cell defines."""
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    names = (
        name for target in targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])
    )
    found = (name.id for name in names if isinstance(name, ast.Name))
    return list(dict.fromkeys(name for name in found if name.isupper() and not name.startswith("_")))


class Names:
    """Where each exported name is explained: `Names[module](text)` gives the full name or nothing."""

    def __init__(self, paths: list[Path]):
        self.full, self.modules = defaultdict(set), set()
        for path in paths:
            for cell, module, nodes in definitions(path):
                self.modules.add(module)
                for node in nodes:
                    self.add(module, owner(node) + node.name)
                    for method in public(node) if isinstance(node, ast.ClassDef) else ():
                        self.add(module, f"{node.name}.{method.name}")
                for name in constants(ast.parse(cell["source"])):
                    self.add(module, name)

    def add(self, module: str, name: str):
        """Note a name under every form in which prose may call it."""
        full, parts = f"{module}.{name}", module.split(".")
        for start in range(len(parts) + 1):
            self.full[".".join([*parts[start:], name])].add(full)

    def find(self, text: str, module: str) -> str | None:
        """The full name of what `text` means in prose about `module`; None if that is unknown or two."""
        if text in self.modules:
            return text
        found = self.full.get(text, set())
        return (
            f"{module}.{text}"
            if f"{module}.{text}" in found
            else next(iter(found))
            if len(found) == 1
            else None
        )


# --- API entries


def comments(source: str) -> dict[int, str]:
    """The comment at the end of each line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def parameters(node: ast.AST, source: str) -> list[tuple[str, str]]:
    """(name, explanation) of each parameter or dataclass field that has a comment beside it."""
    if isinstance(node, ast.ClassDef):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        init = next(
            (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"),
            None,
        )
        if init:
            return parameters(init, source)
        ends = [(field.target.id, field.end_lineno) for field in fields]
        last = None
    else:
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        every += [item for item in (node.args.vararg, node.args.kwarg) if item]
        defaults = [item for item in [*node.args.defaults, *node.args.kw_defaults] if item]
        ends = [
            (
                item.arg,
                max([item.end_lineno, *(d.end_lineno for d in defaults if d.lineno == item.end_lineno)]),
            )
            for item in sorted(every, key=lambda item: (item.lineno, item.col_offset))
        ]
        last = node.body[0].lineno
    said, lines = comments(source), {line: name for name, line in ends}
    return [
        (name, said[line]) for line, name in lines.items() if line in said and (last is None or line < last)
    ]


def returned(node: ast.AST, source: str) -> list[str]:
    """What the comment behind a function's closing bracket says of its result."""
    if isinstance(node, ast.ClassDef):
        return []
    arguments = [item for item in ast.walk(node.args) if hasattr(item, "end_lineno")]
    start = max((item.end_lineno for item in arguments), default=node.lineno)
    return [text for line, text in comments(source).items() if start < line < node.body[0].lineno]


def signature(node: ast.AST, skip_first: bool) -> str:
    """`(a, b=1) -> int` of a function."""
    arguments = ast.parse(ast.unparse(node)).body[0].args
    if skip_first:
        (arguments.posonlyargs or arguments.args).pop(0)
        extra = len(arguments.defaults) - len(arguments.posonlyargs + arguments.args)
        arguments.defaults = arguments.defaults[max(extra, 0) :]
    return f"({ast.unparse(arguments)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def class_signature(node: ast.ClassDef) -> str:
    """What a class is called with: its `__init__`, or its fields where it is a dataclass or a NamedTuple."""
    init = next(
        (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
    )
    if init:
        return signature(init, skip_first=True)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if not ("dataclass" in decorators(node) or "NamedTuple" in {ast.unparse(base) for base in node.bases}):
        return ""
    shown = (
        f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
        + (
            f" = {ast.unparse(item.value)}"
            if isinstance(item.value, ast.Constant)
            else " = ..."
            if item.value
            else ""
        )
        for item in fields
    )
    return f"({', '.join(shown)})"


def docstring(node: ast.AST) -> str:
    """A docstring as Markdown: its `>>>` examples become code blocks."""
    lines, inside = [], False
    for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
        if not inside and line.lstrip().startswith(">>>"):
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines += ["```"]
            inside = False
        lines.append(line.strip() if inside else line)
    return "\n".join([*lines, "```"] if inside else lines)


def entry(node: ast.AST, source: str, prefix: str = "", depth: int = 5) -> str:
    """The API entry of a function, or of a class with its public methods, in MyST."""
    head, body, flags = f"{prefix}{node.name}", [docstring(node)], []
    if isinstance(node, ast.ClassDef):
        kind, head = "class", head + class_signature(node)
    elif {"property", "cached_property"} & decorators(node):
        kind = "property"
        flags = [f":type: {ast.unparse(node.returns)}"] if node.returns else []
    else:
        kind = "method" if prefix or depth < 5 else "function"
        static = "staticmethod" in decorators(node)
        flags = [f":{name}:" for name in ("staticmethod", "classmethod") if name in decorators(node)]
        head += signature(node, skip_first=kind == "method" and not static)
    rows = [f":param {name}: {text}" for name, text in parameters(node, source)] if kind != "property" else []
    rows += [f":returns: {text}" for text in returned(node, source)]
    if rows:
        body.append("\n".join(rows))
    if isinstance(node, ast.ClassDef):
        body += [entry(method, source, depth=depth - 1) for method in public(node)]
    fence = "`" * (depth + 1)
    return "\n".join([f"{fence}{{py:{kind}}} {head}", *flags, "", "\n\n".join(filter(None, body)), fence])


# --- prose


def blocks(text: str):
    """(text, whether it is prose) pieces of Markdown: fenced code and HTML blocks are not prose."""
    piece, fence, html = [], None, False
    for line in text.split("\n"):
        mark = FENCE.match(line)
        opens = fence is None and not html and (mark or re.match(r"</?[a-z]", line))
        if opens and piece:
            yield "\n".join(piece), True
            piece = []
        if opens:
            fence, html = (mark[2], False) if mark else (None, True)
            piece.append(line)
            continue
        ends = (fence and mark and mark[2].startswith(fence)) or (html and not line.strip())
        piece.append(line)
        if ends:
            yield "\n".join(piece), False
            piece, fence, html = [], None, False
    if piece:
        yield "\n".join(piece), fence is None and not html


def link(text: str, module: str, names: Names) -> str:
    """Prose with each exported name in backticks made a link to where it is explained."""

    def one(match: re.Match) -> str:
        full = names.find(match[1], module)
        role = "py:mod" if full in names.modules else "py:obj"
        return f"{{{role}}}`{match[1]}{match[2] or ''} <{full}>`" if full else match[0]

    return "\n".join(line if line.startswith("#") else NAME.sub(one, line) for line in text.split("\n"))


def callout(match: re.Match) -> str:
    """`> **Note.** ...` as an admonition."""
    text = re.sub(r"^>[ ]?", "", match[2], flags=re.MULTILINE)
    return f":::{{{match[1].lower()}}}\n{text}\n:::"


def mermaid(text: str) -> str:
    """A Mermaid fence as the element that _static/mermaid.js draws."""
    lines = text.strip().split("\n")
    return f'```{{raw}} html\n<pre class="mermaid">\n{escape(chr(10).join(lines[1:-1]))}\n</pre>\n```\n'


def prose(text: str, module: str, names: Names) -> str:
    """A Markdown cell as MyST."""
    text = OUTSIDE.sub(rf"](<{settings()['git_url']}/blob/{settings()['branch']}/\1>)", text)
    text = re.sub(r"(</summary>|<details>)[ ]*\n?", r"\1\n\n", text).replace("<details>\n\n", "<details>\n")
    text = re.sub(r"\n*</details>", "\n\n</details>\n", text)
    pieces = []
    for piece, is_prose in blocks(text):
        if is_prose:
            piece = CALLOUT.sub(callout, link(piece, module, names))
        elif re.match(r" *(```+|~~~+) *mermaid", piece):
            piece = mermaid(piece)
        pieces.append(piece)
    return "\n".join(pieces)


# --- pages


def tags(said: dict[str, str]) -> list[str]:
    """myst-nb's tags for a cell's directives."""
    found = {tag for name, tag in TAGS.items() if name in said}
    if said.get("echo") == "false":
        found.add("remove-input")
    if said.get("code-fold") or said.get("code"):
        found.add("hide-input")
    return sorted(found)


def made_by(node: ast.stmt) -> list[str]:
    """The names that a statement in a module's body defines."""
    if hasattr(node, "name"):
        return [node.name]
    targets = getattr(node, "targets", [node.target] if isinstance(node, ast.AnnAssign) else [])
    return [item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]


def fold(source: str, said: dict[str, str]) -> str:
    """What is folded away, in words: imports, private helpers, exported code of more than FOLD_OVER lines."""
    if not {"export", "exports", "exporti"} & set(said):
        return ""
    tree = ast.parse(source)
    if all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body):
        return "imports"
    lines = len(source.splitlines())
    made = [name for node in tree.body for name in made_by(node)]
    if not made or not ("exporti" in said or all(name.startswith("_") for name in made) or lines > FOLD_OVER):
        return ""
    more = f" and {len(made) - 3} more" if len(made) > 3 else ""
    return f"code of {', '.join(made[:3])}{more} ({lines} lines)"


def shown_cell(cell: dict, said: dict[str, str]) -> dict:
    """A code cell with what myst-nb has to know: what to leave out, and what to fold under which words."""
    metadata = {"tags": tags(said)}
    if what := fold(cell["source"], said):
        metadata["tags"] = sorted({*metadata["tags"], "hide-input"})
        metadata["mystnb"] = {"code_prompt_show": f"Show the {what}", "code_prompt_hide": f"Hide the {what}"}
    return {**cell, "metadata": metadata}


def markdown(source: str) -> dict:
    """A Markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def lead(source: str) -> str:
    """The first cell with its one-line description set larger."""
    return re.sub(r"^(?=> )", "{.lead}\n", source, count=1, flags=re.MULTILINE)


def page(path: Path, names: Names) -> dict:
    """A chapter as readers see it on the site."""
    notebook = read(path)
    api = {cell["source"]: (module, nodes) for cell, module, nodes in definitions(path)}
    module = next(iter(api.values()))[0] if api else ""
    cells, seen = [], set()
    for cell in notebook["cells"]:
        for shown in visible([cell]):
            said = shown.pop("said")
            if cell["cell_type"] == "markdown":
                source = prose(shown["source"], module, names)
                cells.append({**shown, "source": source if cells else lead(source)})
                if len(cells) == 1 and module:
                    cells.append(
                        markdown(f"```{{py:module}} {module}\n```\n{{.module}}\nModule {{py:mod}}`{module}`")
                    )
                continue
            if re.match(r"(nbdev\.showdoc\.)?show_doc\(", shown["source"]):
                continue
            for node in api.get(cell["source"], ("", []))[1]:
                text = entry(node, cell["source"], owner(node))
                if (name := owner(node) + node.name) in seen:
                    text = text.replace("\n", "\n:no-index:\n", 1)
                seen.add(name)
                cells.append(markdown(linked_entry(text, module, names)))
            if cell["source"] in api:
                listed = [name for name in constants(ast.parse(cell["source"])) if name not in seen]
                seen.update(listed)
                if listed:
                    cells.append(
                        markdown(
                            "\n\n".join(f"```{{py:data}} {name}\n:no-contents-entry:\n```" for name in listed)
                        )
                    )
                    cells[-1]["source"] = "::::{div} constants\n" + cells[-1]["source"] + "\n::::"
            cells.append(shown_cell(shown, said))
    language = notebook["metadata"].get(
        "kernelspec", {"name": "python3", "display_name": "python3", "language": "python"}
    )
    return {**notebook, "cells": cells, "metadata": {"kernelspec": language}}


def linked_entry(text: str, module: str, names: Names) -> str:
    """An API entry with the names in its explanations linked."""
    lines, code = [], False
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if mark and not re.match(r" *`+(\{|$)", line):
            code = True
        elif mark and code:
            code = False
            lines.append(line)
            continue
        lines.append(line if code or mark else link(line, module, names))
    return "\n".join(lines)


def by_part(paths: list[Path]) -> dict[str, list[Path]]:
    """The chapters of each part, in reading order."""
    parts = defaultdict(list)
    for path in paths:
        if path != NBS / "index.ipynb":
            parts[title_of(part_of(path))].append(path)
    return parts


def page_name(path: Path) -> str:
    """A chapter's page, as Sphinx calls it."""
    return path.relative_to(NBS).with_suffix("").as_posix()


def described(path: Path) -> tuple[str, str]:
    """A chapter's title and its one-line description."""
    first = read(path)["cells"][0]["source"]
    title, line = re.search(r"^# (.+)", first), re.search(r"^> (.+(?:\n> .+)*)", first, flags=re.MULTILINE)
    return title[1].strip() if title else path.stem, line[1].replace("\n> ", " ").strip() if line else ""


def cards(paths: list[Path]) -> str:
    """The parts of the book as cards: each chapter with what it is about."""
    lines = ["::::{grid} 1 1 2 2", ":gutter: 3", ":class-container: parts", ""]
    for part, chapters_of_it in by_part(paths).items():
        lines += [f":::{{grid-item-card}} {part}", ""]
        for path in chapters_of_it:
            title, line = described(path)
            lines += [f"[{title}](/{page_name(path)}.ipynb)", f": {line}" if line else ": ", ""]
        lines += [":::", ""]
    return "\n".join([*lines, "::::"])


def front(cells: list[dict], paths: list[Path]):
    """Give the front page buttons under its title, its promises side by side, and its parts as cards."""
    start = next(path for path in paths if path != NBS / "index.ipynb")
    words = [cell for cell in cells if cell["cell_type"] == "markdown"]
    words[0]["source"] += (
        f"\n\n:::{{div}} buttons\n[Start with {described(start)[0].lower()}](/{page_name(start)}.ipynb) "
        f"[Run it on your log](#three-ways-to-use-it) [See the chapters](#the-chapters)\n:::"
    )
    for cell in words:
        cell["source"] = re.sub(r"^(?=- \*\*)", "{.promises}\n", cell["source"], count=1, flags=re.MULTILINE)
        if cell["source"].startswith("## The chapters"):
            cell["source"] = re.sub(r"(?:^\|.*\n?)+", cards(paths) + "\n", cell["source"], flags=re.MULTILINE)


def contents(paths: list[Path]) -> dict:
    """The cell that makes the sidebar: one list a part, in the order of the folders."""
    lists = {part: [page_name(path) for path in found] for part, found in by_part(paths).items()}
    lists["Reference"] = ["genindex"]
    return markdown(
        "\n\n".join(
            "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"])
            for caption, names in lists.items()
        )
    )


def stage():
    """Write every page whose content changed; remove pages of notebooks that are gone."""
    paths = chapters()
    names = Names(paths)
    wanted = {STAGE / path.relative_to(NBS): page(path, names) for path in paths}
    index = wanted.setdefault(
        STAGE / "index.ipynb",
        {
            "cells": [markdown(f"# {settings()['title']}\n\n> {settings()['description']}")],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        },
    )
    front(index["cells"], paths)
    index["cells"].append(contents(paths))
    draft = STAGE.with_suffix(".new")
    for target, notebook in wanted.items():
        for number, cell in enumerate(notebook["cells"]):
            cell["id"] = f"cell-{number}"
        write_if_changed(target, notebook, draft)
    for old in set(STAGE.rglob("*.ipynb")) - set(wanted):
        old.unlink()
    for picture in (
        path for path in NBS.rglob("*") if path.suffix in (".svg", ".png", ".jpg") and "/." not in str(path)
    ):
        (STAGE / picture.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(picture, STAGE / picture.relative_to(NBS))


def write_if_changed(target: Path, notebook: dict, draft: Path):
    """Write a notebook unless the same one is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write(draft, notebook)
    if target.exists() and target.read_bytes() == draft.read_bytes():
        draft.unlink()
    else:
        draft.replace(target)


if __name__ == "__main__":
    stage()
