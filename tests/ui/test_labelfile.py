"""Label files of others: what they call things."""

from __future__ import annotations

import gzip
import json

import pytest

from napari_mil.errors import LabelError
from napari_mil.ui.labelfile import is_label, likely, read_as, unknown_classes


def feature(classification, at=0.0):
    ring = [[at, at], [at + 600, at], [at + 600, at + 600], [at, at + 600], [at, at]]
    properties = {"objectType": "annotation"} | ({"classification": classification} if classification else {})
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write_file(path, *classifications):
    features = [feature(c, 100.0 * i) for i, c in enumerate(classifications)]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["q.geojson", "q.geojson.gz"])
def test_classes_that_the_tree_lacks_are_counted(tmp_path, tree, name):
    known = ({"names": ["Malignant", "IC"]}, {"name": "ADH"}, "Atypical", None)
    path = write_file(
        tmp_path / name, {"name": "Tumor"}, {"name": "Tumor"}, {"names": ["Other", "x"]}, *known
    )
    assert unknown_classes(path, tree) == {"Tumor": 2, "Other: x": 1}


def test_other_files_are_left_to_their_reader(tmp_path, tree):
    (tmp_path / "labels.csv").write_text("slide_id,label\n")
    (tmp_path / "broken.geojson").write_text("{")
    assert not unknown_classes(tmp_path / "labels.csv", tree)
    assert not unknown_classes(tmp_path / "broken.geojson", tree)
    assert not unknown_classes(tmp_path / "missing.geojson", tree)


def test_a_class_that_differs_in_case_and_signs_is_likely_the_label(tree):
    assert is_label("Malignant: IC", tree)
    assert not is_label("malignant: ic", tree)
    assert likely("malignant: ic", tree) == "Malignant/IC"
    assert likely("i.c.", tree) == "Malignant/IC"
    assert likely("Stroma", tree) is None


def test_a_file_is_read_under_other_names_as_one_act(study, tmp_path):
    slide = study.slide(study.slides[0])
    path = write_file(tmp_path / "q.geojson", {"name": "Tumor"}, {"name": "Stroma"}, {"name": "ADH"})
    with pytest.raises(LabelError, match="Tumor"):
        study.import_labels(path, slide)
    read, remarks = read_as(study, path, slide, {"Tumor": "Malignant/IC", "Stroma": None})
    assert sorted(c.label for c in read) == ["Atypical/ADH", "Malignant/IC"]
    assert len(study.ledger.corrections(slide.fingerprint)) == 2
    assert "1 area whose class is to be left aside" in remarks[0]
    study.undo(slide)
    assert not study.ledger.corrections(slide.fingerprint)
