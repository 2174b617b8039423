"""Trainings that are killed without a word, and gone on with to the last bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killed import train

pytestmark = pytest.mark.slow


def _killed_after(folder, what, epochs):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    child = subprocess.Popen(
        [sys.executable, "-m", "killed", str(folder), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    for _ in range(epochs):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("what", "kills"),
    [
        ("train", (2,)),
        pytest.param("train", (1, 3), marks=pytest.mark.soak),
        pytest.param("study", (17,), marks=pytest.mark.soak),
    ],
)
def test_what_was_killed_ends_in_the_same_bits(what, kills, tmp_path):
    def told_while(name):
        told = []
        (tmp_path / name).mkdir(exist_ok=True)
        made = train(tmp_path / name, what, lambda now: told.append(now) if now.payload else None)
        return made, len(told)

    whole, epochs = told_while("whole")
    (tmp_path / "killed").mkdir()
    for n in kills:
        _killed_after(tmp_path / "killed", what, n)
    resumed, rest = told_while("killed")
    assert resumed == whole
    assert rest < epochs  # it went on, and did not begin again
    if what == "train":
        log = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")]
        assert log[0] == log[1]
