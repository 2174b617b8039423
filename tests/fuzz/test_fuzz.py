"""Damaged files of every kind end in a success or in one sentence, never in anything else."""

from __future__ import annotations

from random import Random

import planted_faults
import pytest
from fuzzing import REAL, fuzz
from mutations import damaged
from targets import TARGETS

FEW = 6  # damaged files, after each original was used as it is
MANY = {"slides": 3000, "formats": 3000, "labels": 5000, "checkpoints": 3000, "cards": 3000, "projects": 1500}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A function that makes a target's originals, once."""
    made = {}

    def make(name):
        if name not in made:
            base = tmp_path_factory.mktemp(name)
            (base / "originals").mkdir()
            (base / "beside").mkdir()
            TARGETS[name].make(base / "originals", base / "beside")
            made[name] = base / "originals"
        return made[name]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_few_damaged_files(name, originals):
    whole = list(originals(name).iterdir())
    tally = fuzz(name, originals(name), range(len(whole) + FEW))
    assert not tally.findings, tally
    assert tally.succeeded >= len([one for one in whole if not one.name.startswith(REAL)])
    assert tally.refused > 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_damaged_files(name, originals):
    tally = fuzz(name, originals(name), range(MANY[name]))
    assert not tally.findings, tally
    assert tally.succeeded + tally.refused == MANY[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("defect", "KeyError: 'planted'"),
        ("hang", "Timeout"),
        ("crash", "ended with -6"),
        ("memory", "Unable to allocate"),
        ("slow", "s of processor time"),
        ("large", "s of processor time and 1"),
        ("whole refused", "fault is whole and was refused: This is no label."),
        ("no sentence", "this is not one sentence: 'no label'"),
    ],
)
def test_every_fault_is_found_with_its_seed(fault, says, tmp_path):
    waits = (
        {"hang_s": 1} if fault == "hang" else {}
    )  # where others use the processor, what is slow takes longer
    tally = fuzz(fault, originals_of(fault, tmp_path), range(3), module="planted_faults", **waits)
    first = 0 if fault in {"whole refused", "no sentence"} else 1
    assert [f.split(":")[0] for f in tally.findings[:1]] == [f"{fault} seed {first}"]
    assert says in tally.findings[0]
    assert tally.succeeded + tally.refused + len(tally.findings) == 3  # every seed was tried


def test_a_sound_target_has_no_findings(tmp_path):
    tally = fuzz("sound", originals_of("sound", tmp_path), range(9), module="planted_faults")
    assert (tally.succeeded, tally.refused, tally.findings) == (1, 8, [])


def originals_of(fault, folder):
    (folder / "originals").mkdir()
    planted_faults.TARGETS[fault].make(folder / "originals", folder)
    return folder / "originals"


def test_the_same_seed_does_the_same_damage():
    data, other = bytes(range(256)) * 20, [b"GIF89a" * 99]
    for seed in range(300):
        one, again = (damaged(data, Random(seed), other) for _ in range(2))  # noqa: S311 - no secret
        assert one == again != data
