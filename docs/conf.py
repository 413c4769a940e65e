"""Sphinx's settings; scripts/stage.py lays out the pages, settings.ini says what the project is called."""

import ast
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from chapters import NBS, chapters, module_path, settings  # noqa: E402

cfg = settings()
SOURCE = f"{cfg['git_url']}/blob/{cfg['branch']}"

project, author, copyright = cfg["title"], cfg["author"], cfg["copyright"]
version = release = cfg["version"]
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.linkcode", "sphinx_copybutton", "sphinx_design"]
root_doc = "index"

# Chapters carry their outputs: nothing runs while the site is built.
nb_execution_mode = "off"
nb_merge_streams = True
# myst-nb would load the widgets' scripts from the network; the site carries all that it shows.
nb_ipywidgets_js = {}
myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "fieldlist",
]
myst_heading_anchors = 3
myst_dmath_double_inline = True

python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "domain"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Translations: `sphinx-build -b gettext`, then `sphinx-intl update`; one catalogue a chapter.
language = "en"
locale_dirs = [str(Path(__file__).parent / "locale")]
gettext_compact = False

html_title = cfg["title"]
html_theme = "sphinx_book_theme"
html_static_path = ["_static", "_build/vendor"]
html_css_files = ["seqbook.css"]
html_js_files = ["mermaid.js"]
html_favicon = "_static/favicon.svg"
html_baseurl = cfg["doc_host"] + cfg["doc_baseurl"] + "/"
html_show_sphinx = False
# said because the theme logs an error in the browser when it is not
html_context = {"default_mode": "auto"}
mathjax_path = "tex-svg-full.js"
html_theme_options = {
    "logo": {
        "image_light": "_static/logo.svg",
        "image_dark": "_static/logo-dark.svg",
        "alt_text": cfg["title"],
    },
    "repository_url": cfg["git_url"],
    "repository_branch": cfg["branch"],
    "path_to_docs": cfg["nbs_path"],
    "use_repository_button": True,
    "use_source_button": True,
    "use_download_button": True,
    "home_page_in_toc": True,
    # the sidebar has the search; a header with nothing else would only repeat it
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "github-dark-high-contrast",
}


def linkcode_resolve(domain: str, info: dict) -> str | None:
    """Where the source of a documented name stands."""
    path = module_path(info["module"]) if info.get("module") else None
    if not path:
        return None
    node, lines = ast.parse(path.read_text(encoding="utf-8")), ""
    for name in info["fullname"].split("."):
        node = next((item for item in getattr(node, "body", []) if getattr(item, "name", None) == name), None)
        if node:
            lines = f"#L{node.lineno}-L{node.end_lineno}"
    return f"{SOURCE}/{path.relative_to(ROOT).as_posix()}{lines}"


def give_originals(app, exception):
    """Let the download button hand out the notebook itself, which runs, not the page made from it."""
    for path in chapters():
        target = Path(app.outdir, "_sources", path.relative_to(NBS))
        if exception is None and target.exists():
            shutil.copyfile(path, target)


def setup(app):
    """Connect what is ours."""
    app.connect("build-finished", give_originals)
