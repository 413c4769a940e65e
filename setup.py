"""Build seqbook from settings.ini, with the chapters of `nbs/` and the results they read as package data."""

from configparser import ConfigParser
from pathlib import Path
from shutil import copyfile

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("serving", "uplift", "kaggle")}
extras["dev"] = [*cfg["dev_requirements"].split(), *extras["serving"], *extras["uplift"]]


class BuildWithChapters(build_py):
    """Copy the chapters and the results they read into `chapters/` and `results/` of the built package."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for notebook in sorted((ROOT / cfg["nbs_path"]).rglob("*.ipynb")):
            path = notebook.relative_to(ROOT / cfg["nbs_path"])
            if any(part.startswith((".", "_")) for part in path.parts):
                continue
            self.copy_into(Path("chapters", path), notebook)
        for result in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
            self.copy_into(Path("results", result.name), result)

    def copy_into(self, path: Path, source: Path):
        """Copy a file to a path in the built package."""
        target = Path(self.build_lib, cfg["lib_path"], path)
        self.mkpath(str(target.parent))
        copyfile(source, target)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8")
    if (ROOT / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": ["seqbook = seqbook.cli:app"]},
    cmdclass={"build_py": BuildWithChapters},
    zip_safe=False,
)
