"""What is installed: the manifest is found from a wheel and an editable install; the wheel is complete."""

import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASK = """
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("napari-mil")
print(manifest.name, len(manifest.contributions.commands), len(manifest.contributions.readers))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no source tree"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_what_a_package_index_shows_stands_alone():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / about["readme"]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert "![" not in text


def test_where_pip_finds_packages_is_told_to_what_installs_them(tmp_path, monkeypatch):
    told = tmp_path / "pip.conf"
    told.write_text(
        "[global]\nfind-links = /a/wheels\n /b/wheels\nindex-url = https://written.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(told))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://said.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example https://two.example")
    script = runpy.run_path(str(ROOT / "scripts" / "environment.py"))
    settings = script["settings_of_pip"](Path(sys.executable))
    assert settings["UV_FIND_LINKS"] == "/a/wheels,/b/wheels"
    assert settings["UV_DEFAULT_INDEX"] == "https://said.example/simple"
    assert settings["UV_INDEX"] == "https://one.example https://two.example"


def test_the_manifest_at_the_top_is_the_packaged_one():
    assert (ROOT / "napari.yaml").resolve() == ROOT / "napari_mil" / "napari.yaml"


def test_the_manifest_is_found_from_this_installation():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "napari-mil"


def test_the_manifest_is_found_from_a_wheel(wheel, tmp_path):
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--quiet",
        "--target",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run(line, check=True, capture_output=True)
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = f"{first}\nimport napari_mil\nprint(napari_mil.__file__)\n{ASK}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    where, told = done.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert told.split()[0] == "napari-mil"


def test_the_wheel_holds_manifest_types_licence_and_models(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("napari_mil/napari.yaml", "napari_mil/py.typed", "licenses/LICENSE"):
        assert any(name.endswith(wanted) for name in names), wanted
    weights = [name for name in names if name.endswith("weights.safetensors")]
    assert {name.split("/")[2].split("-")[0] for name in weights} >= {"mhim", "hmil"}
    assert not any(name.startswith("tests/") for name in names)
