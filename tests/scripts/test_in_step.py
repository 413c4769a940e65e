"""What must not be saved with a chapter."""

import json

import chapters
import in_step
import pytest


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "an error"),
        ({"output_type": "stream", "name": "stderr", "text": ["careful"]}, "a warning"),
        ({"output_type": "stream", "name": "stdout", "text": ["/home/ann/x"]}, "/home/ann"),
        (
            {"output_type": "execute_result", "data": {"text/plain": ["<f at 0x7f0123456789>"]}},
            "at 0x7f0123456789",
        ),
        ({"output_type": "stream", "name": "stdout", "text": ["3 rows, https://x.y/home/z"]}, None),
        ({"output_type": "display_data", "data": {"image/png": "/tmp/abc"}}, None),
    ],
)
def test_noise(tmp_path, monkeypatch, output, complaint):
    """Errors, warnings, addresses and paths of a machine are found; numbers, links and pictures are not."""
    monkeypatch.setattr(in_step, "ROOT", tmp_path)
    cell = {"cell_type": "code", "metadata": {}, "source": "x", "outputs": [output]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}}))
    found = in_step.noise(path)
    assert found == [] if complaint is None else complaint in found[0]


def test_hidden_cells_are_folded(tmp_path, monkeypatch):
    """A cell that the site hides is folded in JupyterLab, where it would give an answer away."""
    monkeypatch.setattr(in_step, "ROOT", tmp_path)
    notebook = {"cells": [{"cell_type": "code", "metadata": {}, "source": "#| hide\nx", "outputs": []}]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook | {"metadata": {}}))
    assert "folded" in in_step.noise(path)[0]
    chapters.fold_hidden(notebook)
    path.write_text(json.dumps(notebook | {"metadata": {}}))
    assert in_step.noise(path) == []
