"""The rules of QuPath's GeoJSON as a strict check: a file that passes is one that QuPath's parser takes."""

from __future__ import annotations

import uuid

OBJECT_TYPES = {"annotation", "detection", "tile", "cell", "tmaCore", "root"}
PROPERTIES = {
    "objectType", "name", "color", "classification", "isLocked", "isMissing", "measurements", "metadata",
    "childObjects",
}  # fmt: skip


def check_file(root):
    """AssertionError at the first rule that `root`, parsed JSON, breaks."""
    assert set(root) == {"type", "features"}
    assert root["type"] == "FeatureCollection"
    for feature in root["features"]:
        check_feature(feature)
    ids = [f["id"] for f in root["features"]]
    assert len(set(ids)) == len(ids)


def check_feature(feature):
    assert set(feature) <= {"type", "id", "geometry", "nucleusGeometry", "properties"}
    assert feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    check_geometry(feature["geometry"])
    properties = feature["properties"]
    assert set(properties) <= PROPERTIES
    assert properties["objectType"] in OBJECT_TYPES
    assert isinstance(properties.get("name", ""), str)
    if "color" in properties:
        check_colour(properties["color"])
    if "classification" in properties:
        check_class(properties["classification"])
    for flag in ("isLocked", "isMissing"):
        assert properties.get(flag, True) is True
    for name, value in properties.get("measurements", {}).items():
        assert isinstance(name, str)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
        assert number or value in {"NaN", "Infinity", "-Infinity"}
    for key, value in properties.get("metadata", {}).items():
        assert isinstance(key, str)
        assert isinstance(value, str)
    for child in properties.get("childObjects", []):
        check_feature(child)


def check_class(said):
    if isinstance(said, str):
        return
    assert set(said) in ({"name", "color"}, {"names", "color"})
    check_colour(said["color"])
    names = said.get("names", [said.get("name")])
    assert names
    assert all(isinstance(n, str) and n for n in names)


def check_colour(colour):
    assert 3 <= len(colour) <= 4
    assert all(isinstance(c, int) and 0 <= c <= 255 for c in colour)


def check_geometry(geometry):
    assert set(geometry) == {"type", "coordinates"}  # a plane only when it is not the default one
    assert geometry["type"] in {"Polygon", "MultiPolygon"}  # labels are areas; never a GeometryCollection
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    assert polygons
    for polygon in polygons:
        assert polygon
        for ring in polygon:
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            for point in ring:
                assert len(point) == 2
                assert all(isinstance(v, (int, float)) and abs(v) < float("inf") for v in point)
