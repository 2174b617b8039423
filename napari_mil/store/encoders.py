"""Weights of encoders that a person gave, kept in the project folder."""

from __future__ import annotations

from pathlib import Path

from napari_mil.store.disk import put, said


def save_encoder(folder: Path, encoder: str, weights: bytes) -> None:
    """Keep the weights (safetensors) of an encoder under its id in the project at `folder`."""
    with said(folder, "written"):
        put(folder / "encoders" / f"{encoder}.safetensors", weights)


def kept_encoders(folder: Path) -> dict[str, Path]:
    """{id: file of weights} of the encoders that the project at `folder` keeps."""
    return {file.stem: file for file in sorted((folder / "encoders").glob("[!.]*.safetensors"))}
