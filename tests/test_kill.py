"""Trainings that are killed without a word, and gone on with to the last bit."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: a child that trains in a folder and says a line per epoch; at the end the hash of all that it made
CHILD = """
import hashlib, json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from planted import TREE, cohort
from napari_mil.card import Recipe
from napari_mil.evaluate import split_by_case
from napari_mil.train import Log, config_for, parts_of, study_steps, train_steps

folder, what = Path(sys.argv[1]), sys.argv[2]
cases, truths = cohort(20, n=20)
cases[0] = type(cases[0])(cases[0].case, cases[0].bags, cases[0].target, (truths[cases[0].case],))
nodes = {{c.case: c.target.slide for c in cases}}
split = split_by_case(nodes, test=0.25, validation=0.3)
small = {{"hidden": 32, "attention_width": 16, "heads": 2, "mask_ratio": 0.2}}
recipe = Recipe(epochs=5, min_epochs=5, stage1_epochs=2, lr=2e-3)
about = {{"method": "mhim", "config": config_for("mhim", small), "tree": TREE, "device": "cpu"}}

def tell(steps):
    try:
        while True:
            now = next(steps)
            if now.payload:
                print(now.stage, now.done, flush=True)
    except StopIteration as ended:
        return ended.value

def digest(model, *more):
    sha = hashlib.sha256(repr(more).encode())
    for name, values in sorted(model.state_dict().items()):
        sha.update(name.encode() + values.numpy().tobytes())
    return sha.hexdigest()

if what == "train":
    import dataclasses
    rich = dataclasses.replace(
        recipe, batch_bags=3, stopping="official", select_by="official", schedule="plateau",
        precision="bf16", record=(cases[1].case, split.test[0]), class_weights=True,
    )
    made = tell(train_steps(cases, split, recipe=rich, resume=folder / "run.ckpt", log=Log(folder), **about))
    print("made", digest(made.model, made.history, hashlib.sha256(made.recorded).hexdigest(), made.metrics))
else:
    parts = parts_of(nodes, folds=2, seeds=(0,), validation=0.3)
    grid = {{"keep_ratio": [0.5, 0.9]}}
    made = tell(study_steps(cases, parts, recipe=recipe, grid=grid, folder=folder, **about))
    print("made", hashlib.sha256(made.to_csv().encode()).hexdigest(), [dict(r.settings) for r in made.runs])
"""


def _child(folder, what):
    folder.mkdir(exist_ok=True)
    code = CHILD.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def _made(child):
    out, err = child.communicate(timeout=250)
    assert child.returncode == 0, err[-2000:]
    *epochs, last = out.splitlines()
    return last, len(epochs)


def _killed_after(folder, what, epochs):
    child = _child(folder, what)
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
    whole, epochs = _made(_child(tmp_path / "whole", what))
    for n in kills:
        _killed_after(tmp_path / "killed", what, n)
    resumed, rest = _made(_child(tmp_path / "killed", what))
    assert resumed == whole
    assert rest < epochs  # it went on, and did not begin again
    if what == "train":
        log = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")]
        assert log[0] == log[1]
