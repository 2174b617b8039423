"""What is fuzzed: slides, label files, checkpoints, cards, project folders, and everything done with them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fuzzing import REAL, Target, Try
from slidefamilies import FAMILIES
from slidefiles import picture, write_pyramid, write_svs

from napari_mil.bag import Bag
from napari_mil.card import ModelCard
from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, tile_nodes
from napari_mil.grid import TileGrid
from napari_mil.labeltree import LabelTree
from napari_mil.slides import open_slide

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Atypical/ADH", "Malignant/IC"], normal=["Benign/N"])
WIDTH = 12
SAMPLES = Path(__file__).parents[2] / "sample_data"
LARGEST_REAL = 8 * 2**20
FACTS = SimpleNamespace(fingerprint="f" * 64, shape_px=(1501, 2011), bounds_px=(16, 8, 1501, 2011))
GRID = TileGrid.full(FACTS.shape_px, (0.5, 0.5), tile_px=256, mpp=0.5)


def real_files(*patterns: str) -> Iterator[Path]:
    """Real files of $NAPARI_MIL_TEST_DATA, where it is set; no large ones, each seed writes a copy."""
    root = os.environ.get("NAPARI_MIL_TEST_DATA")
    for pattern in patterns if root else ():
        yield from (
            f for f in sorted(Path(root).glob(pattern)) if f.is_dir() or f.stat().st_size < LARGEST_REAL
        )


def copy(files: Iterator[Path], folder: Path) -> None:
    for file in files:
        (shutil.copytree if file.is_dir() else shutil.copy)(file, folder / f"{REAL}{file.name}")


def tissue() -> np.ndarray:
    """(420, 530, 3) of a sample slide."""
    with open_slide(SAMPLES / "slides" / "sample-normal.tif") as slide:
        return slide.levels[0].read(1024, 1024, 1444, 1554)


def make_slides(folder: Path, _beside: Path) -> None:
    image = tissue()
    write_svs(folder / "jpeg.svs", image, "jpeg-rgb")
    write_svs(folder / "jpeg2000.svs", image, "jp2-rgb")
    write_pyramid(folder / "tiled.tif", image, "jpeg-ycbcr", levels=3, tile=(128, 128))
    write_pyramid(folder / "lzw.tif", image, "lzw", levels=2)
    FAMILIES["OME-TIFF"][1](folder, image)
    copy(real_files("slides/*.svs", "slides/*.tif", "slides/*.ndpi", "slides/*_dicom"), folder)


def make_formats(folder: Path, _beside: Path) -> None:
    """A slide of each family beside TIFF; those of several files lie in a folder of their own."""
    for name in ("OME-Zarr 0.4", "OME-Zarr 0.5", "DICOM", "Philips", "SCN", "BIF", "NDPI", "photograph"):
        FAMILIES[name][1](folder, tissue())
    for name in ("TIFF of WebP", "TIFF of JPEG XL"):
        FAMILIES[name][1](folder, tissue())
    (folder / "mirax").mkdir()
    FAMILIES["MRXS"][1](folder / "mirax", tissue())


def use_format(path: Path, attempt: Try) -> None:
    use_slide(path / "a.mrxs" if path.name == "mirax" else path, attempt)


def use_slide(path: Path, attempt: Try) -> None:
    from napari_mil.tissue import tissue_grid
    from napari_mil.ui.reader import get_reader

    get_reader(path)
    with open_slide(path) as slide:
        for level in slide.levels:
            h, w = level.shape_px
            attempt(level.read, 0, 0, 300, 300)
            attempt(level.read, h - 300, w - 300, h, w)
        attempt(slide.thumbnail, 256)
        attempt(getattr, slide, "fingerprint")
        attempt(getattr, slide, "pixel_hash")
        for name in slide.associated:
            attempt(slide.associated.__getitem__, name)
        attempt(tissue_grid, slide, tile_px=256, mpp=0.5)


def corrections() -> list[Correction]:
    ring = np.array([[100.5, 200], [900, 210], [905, 1200.25], [110, 1190]])
    hole = np.array([[300, 400], [300, 600], [500, 600]])
    said = {"model_id": "m", "model_said": "Benign/N", "model_confidence": 0.8, "visible": ("attention",)}
    return [
        Correction(FACTS.fingerprint, WholeSlide(), "Malignant/IC", by="me", tool="slide label"),
        Correction(FACTS.fingerprint, Polygon((ring, hole)), "Atypical/ADH", by="me", note="=sure", **said),
        Correction(
            FACTS.fingerprint, Cells([[1, 2], [1, 3], [4, 4]], GRID.pitch_px), "Benign", was="Benign/N"
        ),
        Correction(FACTS.fingerprint, Cells([[0, 0], [2, 1]], (100.0, 90.5)), None, tool="paint"),
    ]


def make_labels(folder: Path, _beside: Path) -> None:
    from napari_mil.interop import csv_labels, geojson

    geojson.write(folder / "ours.geojson", FACTS, corrections(), TREE)
    geojson.write(folder / "packed.geojson.gz", FACTS, corrections(), TREE)
    areas = {"type": "MultiPolygon", "coordinates": [[[[10, 10], [600, 20], [500, 700], [10, 10]]]]}
    named = {"objectType": "annotation", "classification": {"name": "Benign/N"}, "name": "area"}
    foreign = {"type": "Feature", "geometry": areas, "properties": named}
    (folder / "foreign.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [foreign]}))
    csv_labels.write(folder / "ours.csv", corrections(), TREE)
    csv_labels.write_tiles(
        folder / "tiles.csv", FACTS.fingerprint, GRID, tile_nodes(corrections(), GRID, TREE), TREE
    )
    (folder / "slides.csv").write_text(f"slide_id,label\n{FACTS.fingerprint},Benign/N\n")
    (folder / "manifest.csv").write_text("slide,case,label\na.svs,P1,Benign/N\nb.svs,P2,\n")
    (folder / "tree.json").write_text(TREE.to_json())
    copy(real_files("annotations/*.geojson", "annotations/viewer_exports/*/*.json"), folder)


def use_labels(path: Path, attempt: Try) -> None:
    from napari_mil.interop import csv_labels, geojson
    from napari_mil.ledger import Ledger
    from napari_mil.workflow.exchange import read_manifest

    if path.name == "manifest.csv":
        read_manifest(path)
    elif path.name == "tree.json":
        tree = LabelTree.from_json(path.read_bytes())
        assert LabelTree.from_json(tree.to_json()) == tree
    else:
        if path.name == "tiles.csv":
            read = csv_labels.read_tiles(path, TREE)
        elif path.suffix == ".csv":
            read = csv_labels.read(path, TREE)
        else:
            read = geojson.read(path, FACTS, TREE, label="Benign/N", mapping={"Tumor": "Malignant"})
        attempt(tile_nodes, read, GRID, TREE)
        with Ledger(path.with_name("ledger.sqlite")) as ledger:
            ledger.correct(*read)
            said = ledger.corrections(FACTS.fingerprint)
        with Ledger(path.with_name("ledger.sqlite")) as ledger:
            assert len(ledger.corrections(FACTS.fingerprint)) == len(said)
        attempt(geojson.write, path.with_name("again.geojson"), FACTS, said, TREE)
        attempt(geojson.read, path.with_name("again.geojson"), FACTS, TREE)
        attempt(csv_labels.write, path.with_name("again.csv"), said, TREE)
        attempt(csv_labels.read, path.with_name("again.csv"), TREE)


def some_bag(n: int = 9) -> Bag:
    features = np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float16)
    grid = TileGrid((2048, 2048), (0.5, 0.5), 256, 0.5, np.stack(np.divmod(np.arange(n), 8), 1))
    return Bag("s" * 64, grid, features, "builtin-1")


SMALL = {
    "mean": {"hidden": 16},
    "abmil": {"hidden": 16, "attention_width": 8},
    "gabmil": {"hidden": 16, "attention_width": 8},
    "mhim": {"hidden": 16, "attention_width": 8},
    "hmil": {"hidden": 16},
}


def make_checkpoints(folder: Path, _beside: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from napari_mil import methods
    from napari_mil.methods import official

    for name, config in SMALL.items():
        torch.manual_seed(0)
        weights = official.dump(methods.create(name, config, in_features=WIDTH, tree=TREE))
        torch.save({"model_state_dict": weights, "epoch": 3}, folder / f"{name}.pt")
        torch.save(weights, folder / f"{name}.old.pth", _use_new_zipfile_serialization=False)
        save_file({k: v.clone() for k, v in weights.items()}, folder / f"{name}.safetensors")


def use_checkpoint(path: Path, _attempt: Try) -> None:
    from napari_mil.infer import predict
    from napari_mil.methods import official
    from napari_mil.workflow.models import weight_bytes

    model = official.load(path, tree=TREE)
    weight_bytes(model)
    predict(model, some_bag(), model_id="m")


def card_of(name: str, folder: Path) -> ModelCard:
    """Write a model's card and weights into a folder."""
    import dataclasses

    import torch

    from napari_mil import methods
    from napari_mil.workflow.models import model_id, weight_bytes

    torch.manual_seed(0)
    model = methods.create(name, SMALL[name], in_features=WIDTH, tree=TREE)
    weights = weight_bytes(model)
    card = ModelCard(
        model_id(weights, name), f"{name}-1", name, dataclasses.asdict(model.config), "builtin-1", WIDTH, 256,
        0.5, TREE, slides={"train": ("a", "b")}, metrics={"auc": [0.9, 0.8, 1.0]},
    )  # fmt: skip
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(card.to_json())
    return card


def make_cards(folder: Path, _beside: Path) -> None:
    for name in SMALL:
        card_of(name, folder / name)


def use_card(path: Path, _attempt: Try) -> None:
    from napari_mil.infer import predict
    from napari_mil.workflow.models import load_model

    if not all((path / name).is_file() for name in ("card.json", "weights.safetensors")):
        return  # the store's to notice
    card = ModelCard.from_json((path / "card.json").read_bytes())
    assert ModelCard.from_json(card.to_json()).to_json() == card.to_json()
    card.check(some_bag())
    model = load_model(card, (path / "weights.safetensors").read_bytes())
    predict(model, some_bag(), model_id=card.id, temperature=card.temperature, calibrated=card.calibrated)


@contextmanager
def opened(path: Path) -> Iterator:
    from napari_mil.workflow import Project

    with Project(path, tree=TREE, by="me") as project:
        yield project


def make_projects(folder: Path, beside: Path) -> None:
    image = picture(600, 700)
    slides = [write_pyramid(beside / f"{name}.tif", image, "jpeg-ycbcr", levels=2) for name in "ab"]
    with opened(folder / "study") as project, tempfile.TemporaryDirectory() as work:
        for name in ("mhim", "hmil"):
            card = card_of(name, Path(work) / name)
            project.store.save_model(card, (Path(work) / name / "weights.safetensors").read_bytes())
        for path in slides:
            slide = project.add(path, case=path.stem, label="Benign/N")
            grid = TileGrid.full(slide.shape_px, slide.mpp, tile_px=256, mpp=0.5)
            features = np.random.default_rng(1).normal(size=(len(grid), WIDTH)).astype(np.float16)
            project.store.save_bag(Bag(slide.fingerprint, grid, features, "builtin-1"))
            project.analyse(slide, model="mhim-1")
            project.correct(slide, Cells([[0, 1], [1, 1]], grid.pitch_px), "Atypical/ADH")
            project.correct(slide, WholeSlide(), "Malignant/IC")
        project.undo(slide)


def use_project(path: Path, attempt: Try) -> None:
    from napari_mil.ledger import verify
    from napari_mil.workflow import adopt, conflict_rows, current_card, label_rows, log_rows

    if (path / "ledger.sqlite").is_file():
        attempt(verify, path / "ledger.sqlite")
    with opened(path) as project:
        attempt(current_card, project)
        attempt(adopt, project, "mhim-1")
        for rows in (label_rows, log_rows, conflict_rows):
            attempt(rows, project)
        for record in project.slides:
            attempt(project.store.latest_answer, record.id, "x")
            for model in ("mhim-1", "hmil-1"):
                attempt(project.analyse, record.id, model=model)
            attempt(project.correct, record.id, Cells([[0, 0]], (256.0, 256.0)), "Benign")
            attempt(project.undo, record.id)
            attempt(project.redo, record.id)
            attempt(project.export, path / "labels.geojson", slide=record.id)
        attempt(project.export, path / "labels.csv")


TARGETS = {
    "slides": Target(make_slides, use_slide, most_s=5, most_bytes=2**30),
    "formats": Target(make_formats, use_format, most_s=5, most_bytes=2**30),
    "labels": Target(make_labels, use_labels),
    "checkpoints": Target(make_checkpoints, use_checkpoint),
    "cards": Target(make_cards, use_card),
    "projects": Target(make_projects, use_project),
}
