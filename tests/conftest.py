"""One small real study for every test that needs one: drawn, embedded, two models trained, once per run."""

from __future__ import annotations

import gc
import os
import shutil
import uuid
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from filelock import FileLock
from smallslides import draw_small_slides

from napari_mil.steps import drain

#: What takes seconds to make, whoever asks for it: the study, a window, a database server.
COSTLY = {"cohort", "finished_study", "docked", "viewer", "make_napari_viewer", "postgres"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that uses something costly is slow, without saying so."""
    if COSTLY & set(getattr(item, "fixturenames", ())):
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first in every worker's share: a run ends with short ones to hand over."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    files = [list(of) for _, of in groupby(items, key=lambda item: item.path)]
    marks = {id(of): sum(item.get_closest_marker("slow") is not None for item in of) for of in files}
    quick = [item for of in files if not marks[id(of)] for item in of]
    dealt = sorted((of for of in files if marks[id(of)]), key=lambda of: -marks[id(of)])
    waiting = [of for of in dealt if any("cohort" in item.fixturenames for item in of)]
    # one makes the study that many need; the others begin with something else
    dealt = [*waiting[:1], *(of for of in dealt if of not in waiting), *waiting[1:]]
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    heavy = [0] * workers
    for of in dealt:
        least = heavy.index(min(heavy))
        shares[least].extend(of)
        heavy[least] += marks[id(of)]
    size = -(-len(items) // workers)
    for share in shares:  # of one size, as xdist cuts them
        some = max(size - len(share), 0)
        share.extend(quick[:some])
        del quick[:some]
    items[:] = [item for share in shares for item in share]


def pytest_collection() -> None:
    """Importing makes little garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector, often called by napari, need not walk through it."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what the program remembers outside of projects; no sidecars are made."""
    home = tmp_path_factory.getbasetemp() / f"home-{uuid.uuid4().hex}"
    monkeypatch.setenv("NAPARI_MIL_HOME", str(home))
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "0")
    return home


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten synthetic slides of ten cases, of 7 × 8 tiles: slides/*.tif, truth/*.npz, manifest.csv."""
    from napari_mil.samples import make_cohort

    base = tmp_path_factory.getbasetemp()
    shared = (
        base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    )  # the same for every worker of this run
    with FileLock(shared / "cohort.lock"), pytest.MonkeyPatch.context() as patch:
        draw_small_slides(patch)
        drain(make_cohort(shared / "cohort", slides=10, seed=1, workers=1))
    return shared / "cohort"


@pytest.fixture(scope="session")
def finished_study(cohort: Path) -> Path:
    """A project with the cohort, its bags, and the models mhim-1 and hmil-1. Never write to it."""
    from napari_mil.workflow import Project, import_paths_steps, train_model_steps

    shared = cohort.parent
    with FileLock(shared / "study.lock"):
        folder = shared / "study"
        if not (folder / "complete").exists():
            rows = drain(
                import_paths_steps(folder, [cohort / "slides"], manifest=cohort / "manifest.csv", by="tests")
            )
            assert all(row["ok"] for row in rows)
            with Project(folder) as project:
                short = {"epochs": 6, "stage1_epochs": 2, "min_epochs": 1}
                for method in ("mhim", "hmil"):
                    drain(train_model_steps(project, method, recipe=short))
            (folder / "complete").touch()
    return folder


@pytest.fixture
def study_folder(finished_study: Path, tmp_path: Path) -> Path:
    """A copy of the study that a test may change."""
    return Path(shutil.copytree(finished_study, tmp_path / "study"))


@pytest.fixture
def study(study_folder: Path) -> Iterator[object]:
    """The copy, opened."""
    from napari_mil.workflow import Project

    with Project(study_folder, by="tester") as project:
        yield project


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    """A PostgreSQL server of our own; skipped where none is installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'napari-mil[postgres]'")
    from postgresserver import Server, binaries

    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (initdb, postgres): apt install postgresql")
    server = Server(programs)
    yield server
    server.stop()
