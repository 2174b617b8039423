"""The house stands: what may be imported where, and how large a room may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "napari_mil"
MODULES = sorted(
    ".".join(("napari_mil", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if "__main__" not in path.name and "versions" not in path.parts
)
OUTSIDE_UI = [m for m in MODULES if not m.startswith("napari_mil.ui")]


def fresh(code: str) -> str:
    """Run code in a fresh interpreter; its last words when it fails."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_everything_outside_ui_imports_where_napari_and_qt_do_not():
    blocked = ("napari", "qtpy", "magicgui", "superqt", "vispy", "PyQt5", "PyQt6", "PySide6", "pyqtgraph")
    fresh(
        f"""
import importlib, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Nothing())
for module in {OUTSIDE_UI!r}:
    importlib.import_module(module)
"""
    )


@pytest.mark.slow
def test_the_learning_rooms_import_without_dask_zarr_and_the_slide_libraries():
    rooms = [
        "mil",
        "methods",
        "methods.official",
        "encoders",
        "masks",
        "infer",
        "evaluate",
        "train",
        "calls",
        "card",
    ]
    fresh(
        f"""
import importlib, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("napari", "dask", "zarr", "imagecodecs", "openslide", "sqlalchemy"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Nothing())
for room in {rooms!r}:
    importlib.import_module("napari_mil." + room)
"""
    )


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("napari_mil", ("numpy", "torch", "napari", "dask")),
        ("napari_mil.slides", ("torch", "napari")),
        ("napari_mil.tissue", ("torch", "napari")),
        ("napari_mil.store", ("torch", "napari")),
        ("napari_mil.interop.geojson", ("torch", "napari")),
        ("napari_mil.workflow", ("torch", "napari")),
        ("napari_mil.cli", ("torch", "napari", "dask", "zarr")),
        ("napari_mil.ui.reader", ("torch", "qtpy", "magicgui")),
        ("napari_mil.ui.layers", ("torch", "qtpy", "magicgui")),
    ],
)
def test_what_an_import_does_not_load(module, unwanted):
    loaded = fresh(f"import sys, {module}\nprint(*sorted(m for m in sys.modules if '.' not in m))").split()
    assert not set(unwanted) & set(loaded)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_small(path):
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    tree = ast.parse(text)
    is_table = not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))
    assert is_table or lines <= (200 if path.parent.name == "sections" else 400), f"{lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            public = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            methods = [n for n in public if not n.decorator_list]
            assert len(methods) <= 12, f"{node.name} has {len(methods)} public methods"
