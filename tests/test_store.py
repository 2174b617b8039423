"""The project folder: what was written comes back exactly, and what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_mil import __version__
from napari_mil import store as store_module
from napari_mil.bag import Bag
from napari_mil.card import ModelCard
from napari_mil.correction import Correction, WholeSlide
from napari_mil.errors import ModelError, ProjectError
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.prediction import Prediction, TileMap
from napari_mil.store import Store

TREE = LabelTree.from_paths(["Benign/N", "Malignant/IC"], normal=["Benign/N"])
GRID = TileGrid((1000, 1500), (0.25, 0.2521), 50, 0.5, [[1, 2], [0, 0], [3, 3], [9, 1]])
CARD = ModelCard("m-1", "mhim-1", "mhim", {"version": 2}, "builtin-1", 3, 50, 0.5, TREE)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "study", tree=TREE)
    yield made
    made.close()


def some_bag(**changes):
    features = np.arange(12, dtype=np.float16).reshape(4, 3) / 7
    return replace(Bag("s:1/a", GRID, features, "builtin-1"), **changes)


def some_answer(**changes):
    maps = (
        TileMap("attention/fine/ADH", "score", [0.1, np.nan, -np.inf, 1e-40], (0.0, 1.0), note="simulated"),
        TileMap("hidden", "mask", [True, False, True, False]),
        TileMap("class/fine", "nodes", [0, 2, 3, 2]),
        TileMap("roles", "groups", [0, 1, 2, 4], None, {0: "left to learn from", 4: "hidden (random)"}),
        TileMap("attention/fine/N", "score", [1, 2, 3, 4]),
        TileMap("class/fine without the slide's answer", "nodes", [3, 3, 3, 3]),
    )
    levels = (np.array([0.1, 0.9], np.float32), np.array([1 / 3, 2 / 3], np.float32))
    said = Prediction("s:1/a", GRID.id, "m-1", "slide", levels, maps, calibrated=True, heads=True)
    return replace(said, **changes)


def assert_same_map(a, b):
    assert (a.name, a.kind, a.span, dict(a.legend), a.note) == (
        b.name,
        b.kind,
        b.span,
        dict(b.legend),
        b.note,
    )
    assert a.values.dtype == b.values.dtype
    assert a.values.tobytes() == b.values.tobytes()


def assert_same_answer(a, b):
    names = ("slide_id", "grid_id", "model_id", "scope", "calibrated", "heads", "at")
    assert [getattr(a, n) for n in names] == [getattr(b, n) for n in names]
    assert [p.tobytes() for p in a.probabilities] == [p.tobytes() for p in b.probabilities]
    assert len(a.maps) == len(b.maps)
    for mine, theirs in zip(a.maps, b.maps, strict=True):
        assert_same_map(mine, theirs)


def test_a_project_is_there_when_it_is_opened_again(tmp_path):
    store = Store(tmp_path / "new" / "study", tree=lambda: TREE)
    store.ledger.correct(Correction("s", WholeSlide(), "Benign"))
    store.close()
    again = Store(tmp_path / "new" / "study", tree=LabelTree.from_paths(["other"]))
    assert again.tree == TREE
    assert [c.label for c in again.ledger.corrections()] == ["Benign"]
    again.close()


def test_a_new_project_needs_a_tree(tmp_path):
    with pytest.raises(ProjectError, match="is a new project; give it a label tree"):
        Store(tmp_path / "study")


def test_a_bag_comes_back_exactly(store):
    bag = some_bag()
    assert store.load_bag("s:1/a", "builtin-1", 50, 0.5) is None
    store.save_bag(bag)
    back = store.load_bag("s:1/a", "builtin-1", 50, 0.5)
    assert (back.slide_id, back.encoder, back.grid.id) == (bag.slide_id, bag.encoder, bag.grid.id)
    assert back.grid.slide_mpp == bag.grid.slide_mpp
    assert back.features.dtype == np.float16
    assert back.features.tobytes() == bag.features.tobytes()
    for other in (("t", "builtin-1", 50, 0.5), ("s:1/a", "b", 50, 0.5), ("s:1/a", "builtin-1", 50, None)):
        assert store.load_bag(*other) is None


def test_a_bag_in_pixels_and_an_empty_one(store):
    grid = TileGrid((1000, 1500), None, 50, None, np.empty((0, 2)))
    store.save_bag(Bag("s", grid, np.empty((0, 3), np.float32), "e"))
    back = store.load_bag("s", "e", 50, None)
    assert back.features.shape == (0, 3)
    assert (back.grid.slide_mpp, back.grid.mpp) == (None, None)


def test_a_bag_of_photographs_keeps_their_cells(store):
    grid = TileGrid((300, 800), None, 64, None, np.array([[1, 3]]), (150, 200))
    store.save_bag(Bag("s", grid, np.ones((1, 3), np.float32), "e+photograph"))
    back = store.load_bag("s", "e+photograph", 64, None)
    assert (back.grid.id, back.grid.cell_px) == (grid.id, (150, 200))


def test_features_can_stay_on_disk(store):
    bag = some_bag()
    store.save_bag(bag)
    there = store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True)
    assert not there.features.flags.owndata
    assert there.features.tobytes() == bag.features.tobytes()
    assert (there.grid.id, there.features.dtype) == (bag.grid.id, bag.features.dtype)
    with pytest.raises(ValueError, match="read-only"):
        there.features[0] = 1
    store.save_bag(some_bag(features=np.ones((4, 3), np.float16)))  # what is mapped stays what it was
    assert there.features.tobytes() == bag.features.tobytes()
    file = next(store.folder.glob("bags/*/*/features/c/0/0"))
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(ProjectError, match="the content of features does not give its checksum"):
        store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_features_that_stay_on_disk_keep_no_files_open(store):
    """A study has more slides than a program may have files open: 1,024 on most machines."""
    store.save_bag(some_bag())
    store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 40, before[1]))
    try:
        held = [store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True) for _ in range(60)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert {bag.features.tobytes() for bag in held} == {some_bag().features.tobytes()}
    mapped = held[0].features[1:]
    del held
    assert mapped.tobytes() == some_bag().features[1:].tobytes()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_system_refuses_is_no_damage(store, monkeypatch, error, why):
    """Who is told that features are damaged deletes them, and a night's work with them."""
    store.save_bag(some_bag())

    def refused(*_words, **_more):
        raise error

    monkeypatch.setattr(store_module, "read_arrays", refused)
    with pytest.raises(ProjectError, match=rf"cannot be read now: {why}; it need not be damaged") as said:
        store.load_bag("s:1/a", "builtin-1", 50, 0.5)
    assert "delete" not in str(said.value)


@pytest.mark.parametrize("rows", [2, 100])
def test_features_of_an_older_version_are_read_into_memory(store, monkeypatch, rows):
    """They lie in compressed pieces; and of nothing but zeros zarr writes no file."""
    plain = store_module.write_arrays
    monkeypatch.setattr(store_module, "write_arrays", partial(plain, rows=rows))
    for features in (some_bag().features, np.zeros((4, 3), np.float16)):
        store.save_bag(some_bag(features=features))
        there = store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True)
        assert there.features.tobytes() == features.tobytes()


def test_a_bag_of_zeros_comes_back(store):
    store.save_bag(some_bag(features=np.zeros((4, 3), np.float16)))
    assert not store.load_bag("s:1/a", "builtin-1", 50, 0.5, mapped=True).features.any()


def test_a_bag_is_replaced_whole(store):
    store.save_bag(some_bag())
    store.save_bag(some_bag(features=np.ones((4, 5), np.float32)))
    assert store.load_bag("s:1/a", "builtin-1", 50, 0.5).features.tolist() == [[1] * 5] * 4
    assert list((store.folder / "unfinished").iterdir()) == []


def test_an_answer_comes_back_exactly(store):
    answer = some_answer()
    assert store.load_prediction("s:1/a", GRID.id, "m-1") is None
    store.save_prediction(answer)
    assert_same_answer(store.load_prediction("s:1/a", GRID.id, "m-1"), answer)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=hnp.arrays(np.float32, (3, 4)),
    names=st.lists(st.text(min_size=1, max_size=20), min_size=3, max_size=3),
    at=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_scores_names_and_times_come_back(store, scores, names, at):
    maps = tuple(TileMap(n, "score", v, note=n) for n, v in zip(names, scores, strict=True))
    answer = some_answer(maps=maps, at=at)
    store.save_prediction(answer)
    assert_same_answer(store.load_prediction("s:1/a", GRID.id, "m-1"), answer)


def test_a_region_never_becomes_the_slides_answer(store):
    region = some_answer(scope="region")
    store.save_prediction(region)
    assert store.load_prediction("s:1/a", GRID.id, "m-1") is None
    assert store.latest_answer("s:1/a", "m-1") is None
    assert_same_answer(store.load_prediction("s:1/a", GRID.id, "m-1", scope="region"), region)


def test_the_latest_answer_for_a_list(store):
    assert store.latest_answer("s:1/a", "m-1") is None
    old = some_answer(at=datetime(2026, 1, 1, tzinfo=UTC))
    new = some_answer(at=datetime(2026, 2, 1, tzinfo=UTC), grid_id="another")
    for answer in (new, old):
        store.save_prediction(answer)
    assert store.latest_answer("s:1/a", "m-1").grid_id == "another"
    assert store.latest_answer("s:1/a", "m-1").maps == ()


def test_an_answer_after_the_clock_went_back_is_the_latest(store):
    ahead = datetime.now(UTC) + timedelta(days=3)
    for grid, at in (("wrong clock", ahead), ("mended", datetime.now(UTC)), ("later", datetime.now(UTC))):
        store.save_prediction(some_answer(at=at, grid_id=grid))
        assert store.latest_answer("s:1/a", "m-1").grid_id == grid


def test_models_are_kept_and_never_overwritten(store):
    child = replace(CARD, id="m-2", parent="m-1", created="2099-01-01T00:00:00+00:00")
    store.save_model(child, b"child")
    store.save_model(CARD, b"weights", extra={"run.jsonl": b"{}"})
    store.save_model(CARD, b"weights")
    assert [c.id for c in store.cards()] == ["m-1", "m-2"]
    assert store.cards()[0].to_json() == CARD.to_json()
    assert store.model_bytes("m-1") == b"weights"
    assert store.model_bytes("m-1", "run.jsonl") == b"{}"
    with pytest.raises(ProjectError, match="never overwritten"):
        store.save_model(CARD, b"other weights")
    assert store.model_bytes("m-1") == b"weights"
    with pytest.raises(ModelError, match="no model 'm-3'; it has m-1, m-2"):
        store.model_bytes("m-3")


def test_the_current_model_is_the_one_adopted_last(store):
    assert store.current is None
    for model in ("m-1", "m-2"):
        store.ledger.append("adopt", None, {"model": model}, "me")
    assert store.current == "m-2"


def test_keys_stay_inside_the_project(store):
    wicked = ("..", "../../x", "a" * 300, "", ".", "C:\\x", "*")
    for n, key in enumerate(wicked):
        store.save_bag(some_bag(slide_id=key, encoder=key, features=np.full((4, 3), n, np.float32)))
        store.save_model(replace(CARD, id=key), str(n).encode())
    for n, key in enumerate(wicked):
        assert store.load_bag(key, key, 50, 0.5).features[0, 0] == n
        assert store.model_bytes(key) == str(n).encode()
    inside = {p.name for p in store.folder.parent.iterdir()}
    assert inside == {"study"}


def test_what_was_left_unfinished_is_removed_and_what_is_being_written_stays(store):
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    gone, mine = (
        store.folder / "unfinished" / f"{socket.gethostname()}-{pid}-{'0' * 32}"
        for pid in (int(child.stdout), os.getpid())
    )
    for place in (gone, mine):
        place.mkdir(parents=True)
    Store(store.folder).close()
    assert not gone.exists()
    assert mine.exists()


CHILD = """
import sys
import numpy as np
from napari_mil.bag import Bag
from napari_mil.grid import TileGrid
from napari_mil.store import Store
store = Store(sys.argv[1])
grid = TileGrid.full((1000, 1000), None, tile_px=10, mpp=None)
for n in range(10**6):
    store.save_bag(Bag(f"s{n % 3}", grid, np.full((len(grid), 8), n, np.float32), "e"))
    print(n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_bags_are_written_leaves_whole_ones_only(store):
    draw = np.random.default_rng(1)
    for _round in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store.folder)], stdout=subprocess.PIPE, text=True
        )
        with child:
            for _ in range(draw.integers(3, 20)):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        store.close()
        store.__init__(store.folder)
        for n in range(3):
            bag = store.load_bag(f"s{n}", "e", 10, None)
            assert bag is None or (bag.features == bag.features[0, 0]).all()
        assert list((store.folder / "unfinished").iterdir()) == []


def first(store, pattern):
    return min(store.folder.glob(pattern))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "act", "names"),
    [
        (lambda s: flip(first(s, "bags/*/*/features/c/0/0")), "bag", "bags/"),
        (lambda s: first(s, "bags/*/*/features/c/0/0").unlink(), "bag", "bags/"),
        (lambda s: first(s, "bags/*/*/zarr.json").write_text("{"), "bag", "bags/"),
        (lambda s: shutil.rmtree(first(s, "bags/*/*/cells")), "bag", "bags/"),
        (lambda s: first(s, "maps/*/*/*/nodes/c/1/0").unlink(), "answer", "maps/"),
        (lambda s: first(s, "maps/*/*/*/zarr.json").unlink(), "latest", "maps/"),
        (lambda s: flip(first(s, "models/m-1/weights.safetensors")), "weights", "models/m-1"),
    ],
)
def test_what_is_damaged_is_named(store, harm, act, names):
    store.save_bag(some_bag())
    store.save_prediction(some_answer())
    store.save_model(CARD, b"weights")
    harm(store)
    acts = {
        "bag": lambda: store.load_bag("s:1/a", "builtin-1", 50, 0.5),
        "answer": lambda: store.load_prediction("s:1/a", GRID.id, "m-1"),
        "latest": lambda: store.latest_answer("s:1/a", "m-1"),
        "weights": lambda: store.model_bytes("m-1"),
    }
    with pytest.raises(ProjectError, match=f"study is damaged: {names}") as caught:
        acts[act]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", [flip, lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_a_damaged_card_is_named_and_stands_in_nobodys_way(store, harm):
    store.save_model(CARD, b"weights")
    store.save_model(replace(CARD, id="m-2"), b"other")
    harm(store.folder / "models" / "m-1" / "card.json")
    assert [card.id for card in store.cards()] == ["m-2"]
    [said] = store.damaged_cards()
    assert "study is damaged: models/m-1 cannot be read" in said
    assert store.model_bytes("m-2") == b"other"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("project.json", None, "damaged: project.json is missing"),
        ("project.json", "{", "damaged: project.json cannot be read"),
        ("project.json", '{"format": "recipes", "version": 1}', "is no napari-mil project"),
        (
            "project.json",
            '{"format": "napari-mil project", "version": 99}',
            f"format version 99, napari-mil {__version__} knows versions up to 2",
        ),
        ("labeltree.json", None, "damaged: labeltree.json is missing"),
        ("labeltree.json", "[]", "damaged: labeltree.json cannot be read"),
        ("ledger.sqlite", None, "damaged: ledger.sqlite is missing"),
        ("ledger.sqlite", "what" * 999, "is damaged: it is no SQLite database"),
    ],
)
def test_a_damaged_project_is_refused_with_a_sentence(store, name, text, says):
    store.ledger.append("note", None, {})
    store.close()
    path = store.folder / name
    path.unlink() if text is None else path.write_text(text)
    before = sorted(p.name for p in store.folder.iterdir())
    with pytest.raises(ProjectError, match=says):
        Store(store.folder, tree=TREE)
    assert sorted(p.name for p in store.folder.iterdir()) == before


def test_a_creation_that_was_cut_short_is_finished(store):
    store.close()
    (store.folder / "labeltree.json").unlink()
    again = Store(store.folder, tree=TREE)
    assert again.tree == TREE
    again.close()


def test_a_file_is_no_project(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ProjectError, match="is a file; a project is a folder"):
        Store(tmp_path / "x", tree=TREE)


def test_a_full_disk_is_said_and_loses_nothing(store):
    store.save_bag(some_bag())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = some_bag(features=np.random.default_rng(0).random((4, 30_000), np.float32))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ProjectError, match="the disk is full; nothing was lost"):
            store.save_bag(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.load_bag("s:1/a", "builtin-1", 50, 0.5).width == 3
    assert list((store.folder / "unfinished").iterdir()) == []


def test_the_store_never_loads_torch(tmp_path):
    code = (
        "import sys; from napari_mil.store import Store; from napari_mil.labeltree import LabelTree;"
        "Store(sys.argv[1], tree=LabelTree.from_paths(['a'])).close();"
        "print([m for m in ('torch', 'napari', 'zarr', 'qtpy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p")], capture_output=True, text=True, check=False
    )
    assert out.stdout == "[]\n", out.stderr


def test_attributes_are_plain_json(store):
    store.save_prediction(some_answer())
    about = json.loads(first(store, "maps/*/*/*/zarr.json").read_text())["attributes"]
    assert about["maps"][0]["name"] == "attention/fine/ADH"


def test_cards_are_read_once_until_their_file_changes(store, monkeypatch):
    store.save_model(CARD, b"weights")
    read, plain = [], ModelCard.from_json
    monkeypatch.setattr(ModelCard, "from_json", lambda text: read.append(1) or plain(text))
    assert [[card.id for card in store.cards()] for _ in range(3)] == [["m-1"]] * 3
    assert len(read) == 1
    file = store.folder / "models" / "m-1" / "card.json"
    file.write_text(file.read_text() + " ")
    assert store.cards() == ()
    assert "models/m-1 cannot be read" in store.damaged_cards()[0]
