"""Commands that README and docs show exist, with the options shown."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from napari_mil.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [
    (page.name, line.split("#")[0].strip())
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("napari-mil ")
]


def test_the_pages_show_commands():
    assert len(SHOWN) > 20


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_that_is_shown_exists(page, line):
    command, words = get_command(app), shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    unknown = {w.split("=")[0] for w in words if re.match(r"--?[a-z]", w)} - known
    assert not unknown, f"{page}: {line}"
