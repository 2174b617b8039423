#!/usr/bin/env python3
"""Makes a virtual environment and installs the project in it, with what its tests and its demo need.

    scripts/environment.py FOLDER CONSTRAINTS EXTRAS

uv installs in a quarter of the time that pip takes. It reads none of pip's settings, so those that say where
packages come from are handed on to it.
"""

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

# what pip is told (its files, or PIP_… in the environment), and uv's variable for it
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}
BEST = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # of several indexes the newest version that fits, as pip


def settings_of_pip(python: Path) -> dict[str, str]:
    """The settings of pip as uv's variables; the environment comes before the files, as with pip."""
    ask = [python, "-m", "pip", "config", "list"]
    lines = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()
    told: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        where, _, value = line.partition("=")
        if (name := SETTINGS.get(where.rpartition(".")[2])) is not None:
            told[name] = ("," if name == "UV_FIND_LINKS" else " ").join(ast.literal_eval(value).split())
    return BEST | told


def main(folder: str, constraints: str, extras: str) -> None:
    python = Path(folder, "Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "uv>=0.7"], check=True)
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--constraints", constraints]
    environment = settings_of_pip(python) | os.environ
    subprocess.run([*uv, "--editable", f".[{extras}]", "--group", "dev"], check=True, env=environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
