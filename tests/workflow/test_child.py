"""Our command lines as children: those that have begun keep their best when they are ended."""

from __future__ import annotations

import time

import pytest

from napari_mil.workflow import child

RECORD = '{"stage": "epochs", "done": 1, "total": 9, "note": "", "payload": {"loss": 1}}'


@pytest.fixture
def as_child(tmp_path, monkeypatch):
    """Let a shell script take the place of our command line."""

    def act(script):
        path = tmp_path / "child"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(child.sys, "executable", str(path))
        return child.child_steps(["train"])

    return act


def test_one_that_still_starts_is_not_waited_for(as_child):
    steps, began = as_child("exec sleep 30"), time.monotonic()
    assert [next(steps).stage, next(steps).stage] == ["starting", "starting"]  # now and then, to be stopped
    steps.close()
    assert time.monotonic() - began < 10


def test_one_that_has_begun_is_asked_to_stop_and_waited_for(as_child, tmp_path):
    kept = tmp_path / "kept"
    steps = as_child(f"echo '{RECORD}'; read word; echo \"$word\" > '{kept}'")
    assert next(now.stage for now in steps if now.stage != "starting") == "epochs"
    said = next(steps)
    assert (said.stage, said.done, said.payload) == ("epochs", 1, None)  # silent
    steps.close()
    assert kept.read_text() == "stop\n"
