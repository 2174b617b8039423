"""Run `napari-mil WORDS` in this process."""

from __future__ import annotations

import sys

import pytest

from napari_mil.cli import main


@pytest.fixture
def run(capsys, monkeypatch):
    """A function of the words: (exit status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["napari-mil", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as done:
            status = int(done.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call
