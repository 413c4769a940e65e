"""The wheel, installed in a clean environment, works outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd, **variables):
    """Run a command outside the repository; its result, with the output in the message if it fails."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**clean, **variables}, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, so that nothing is left in the repository."""
    source = tmp_path_factory.mktemp("source") / "seqbook"
    kept = (
        "seqbook",
        "nbs",
        "benchmarks/results",
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "LICENSE",
        "README.md",
    )
    for name in kept:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(
                path, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
        elif path.exists():
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source, cwd=out)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """The folder of the programs of a clean environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    if shutil.which("uv"):
        run("uv", "venv", "--python", sys.executable, folder / "venv", cwd=folder)
        run("uv", "pip", "install", "--python", programs / "python", wheel, cwd=folder)
    else:
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        run(
            programs / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            wheel,
            cwd=folder,
        )
    return programs


def chapters():
    """Every chapter of the repository, by its path in `nbs/`."""
    found = (path.relative_to(ROOT / "nbs") for path in (ROOT / "nbs").rglob("*.ipynb"))
    return {path.as_posix() for path in found if not any(part.startswith((".", "_")) for part in path.parts)}


def test_every_chapter_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix("seqbook/chapters/")
            for name in archive.namelist()
            if name.startswith("seqbook/chapters/")
        }
        assert packed == chapters()
        for name in packed:
            assert archive.read(f"seqbook/chapters/{name}") == (ROOT / "nbs" / name).read_bytes()


def test_the_results_that_chapters_read_are_in_the_wheel(clean, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.split("/")[-1] for name in archive.namelist() if name.startswith("seqbook/results/")}
    assert packed == {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    code = "from seqbook.evaluation.reports import saved_table; print(len(saved_table('next_item')))"
    assert int(run(clean / "python", "-c", code, cwd=tmp_path).stdout.split()[-1]) > 2


def test_the_wheel_has_every_module(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("seqbook/") and name.endswith(".py")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in (ROOT / "seqbook").rglob("*.py")}


def test_the_wheel_is_what_is_imported(clean, tmp_path):
    where = run(
        clean / "python", "-c", "import seqbook; print(seqbook.__file__)", cwd=tmp_path
    ).stdout.strip()
    assert Path(where).is_relative_to(clean.parent) and not Path(where).is_relative_to(ROOT)


def test_every_module_imports(clean, tmp_path):
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "seqbook").rglob("*.py")
        if not path.name.startswith("_")
    )
    run(clean / "python", "-c", "\n".join(f"import {name}" for name in modules), cwd=tmp_path)


def test_help(clean, tmp_path):
    shown = run(clean / "seqbook", "--help", cwd=tmp_path).stdout
    assert all(command in shown for command in ("run", "predict", "lab"))


def test_run_and_predict(clean, tmp_path):
    run(clean / "seqbook", "run", "--model", "counts", "--users", 300, "--out", "r", cwd=tmp_path)
    assert "<html" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    run(clean / "seqbook", "predict", "r/model", "r/cleaned.parquet", "--out", "scores.csv", cwd=tmp_path)
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").startswith("user_id,cutoff")


def test_lab_copies_the_chapters(clean, tmp_path):
    run(clean / "seqbook", "lab", "book", "--no-open", cwd=tmp_path)
    copied = {path.relative_to(tmp_path / "book").as_posix() for path in (tmp_path / "book").rglob("*.ipynb")}
    assert copied == chapters()


def test_jupyterlab_is_there_for_the_reader(clean, tmp_path):
    run(clean / "python", "-m", "jupyterlab", "--version", cwd=tmp_path)
