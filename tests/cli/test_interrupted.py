"""Ctrl+C is one sentence and exit status 130, and what was done is kept."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from quickstudy import study
from slidefiles import write_pyramid

SAID = "napari-mil: Interrupted; what was finished is kept, run the same line again to go on.\n"


def test_an_interrupted_command_says_so(tmp_path, run, monkeypatch):
    with study(tmp_path, 1) as project:
        folder = project.path

    def interrupted(*_words, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_mil.workflow.label_rows", interrupted)
    assert run("labels", "show", folder) == (130, "", SAID)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_an_interrupted_embedding_keeps_its_tiles(tmp_path):
    with study(tmp_path, 0) as project:
        stained = np.random.default_rng(0).normal((190, 110, 170), 8, (256, 256, 3)).astype(np.uint8)
        middle = np.pad(np.tile(stained, (12, 12, 1)), ((256,) * 2, (256,) * 2, (0, 0)), constant_values=240)
        project.add(write_pyramid(tmp_path / "s.tif", middle, levels=3))
    line = [sys.executable, "-m", "napari_mil.cli", "embed", str(project.path), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for words in child.stdout:
            if '"features"' in words and json.loads(words)["done"] >= 64:  # what was done is kept by then
                child.send_signal(signal.SIGINT)
                break
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, SAID)
    assert list((project.path / "parts").rglob("*.npz"))
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as again:
        first = next(words for words in again.stdout if '"features"' in words)
        again.kill()
    assert '"done": 0' not in first
