"""DICOM whole-slide images for tests, written with pydicom: TILED_FULL, one instance per level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)
from slidefiles import cut, encode, half

SYNTAXES = {
    "jpeg-ycbcr": (JPEGBaseline8Bit, "YBR_FULL_422"),
    "jpeg-rgb": (JPEGBaseline8Bit, "RGB"),
    "jp2-rgb": (JPEG2000Lossless, "RGB"),
    "raw": (ExplicitVRLittleEndian, "RGB"),
}


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def _optical(power: float | None, icc: bytes | None) -> Dataset:
    made = Dataset()
    made.OpticalPathIdentifier = "0"
    made.IlluminationTypeCodeSequence = [_code("111744", "DCM", "Brightfield illumination")]
    made.IlluminationColorCodeSequence = [_code("414298005", "SCT", "Full Spectrum")]
    if icc is not None:
        made.ICCProfile = icc
    if power is not None:
        made.ObjectiveLensPower = power
    return made


def _shared(mpp: tuple[float, float], kind: str) -> Dataset:
    made, measures, frame = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [mpp[0] / 1000, mpp[1] / 1000]
    measures.SliceThickness = 0.001
    frame.FrameType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    made.PixelMeasuresSequence, made.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [frame]
    optical = Dataset()
    optical.OpticalPathIdentifier = "0"
    made.OpticalPathIdentificationSequence = [optical]
    return made


def instance(image: np.ndarray, codec: str, uids: dict, mpp: tuple[float, float], **about) -> Dataset:
    """One level, or with kind="LABEL" an associated image. about: kind, number, tile, power, icc."""
    kind, tile = about.get("kind", "VOLUME"), about.get("tile", (240, 240))
    syntax, colours = SYNTAXES[codec]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    for key, value in uids.items():
        setattr(made, key, value)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "SM", 1, about.get("number", 1)
    made.PatientID = made.PatientName = made.StudyID = made.AccessionNumber = "test"
    made.PatientBirthDate = made.PatientSex = made.ReferringPhysicianName = (
        made.PositionReferenceIndicator
    ) = ""
    made.StudyDate = made.SeriesDate = made.ContentDate = "20200101"
    made.StudyTime = made.SeriesTime = made.ContentTime = "000000"
    made.AcquisitionDateTime = "20200101000000"
    made.Manufacturer, made.ManufacturerModelName, made.DeviceSerialNumber = "Maker", "Scanner 1", "1"
    made.SoftwareVersions = made.ContainerIdentifier = "1"
    made.ImageType = ["DERIVED" if about.get("derived") else "ORIGINAL", "PRIMARY", kind, "NONE"]
    made.DimensionOrganizationType = "TILED_FULL"
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = image.shape[:2]
    made.ImagedVolumeHeight = image.shape[0] * mpp[0] / 1000
    made.ImagedVolumeWidth = image.shape[1] * mpp[1] / 1000
    made.ImagedVolumeDepth = 0.001
    made.Rows, made.Columns = tile
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, colours, 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.BurnedInAnnotation, made.SpecimenLabelInImage = "NO", "YES" if kind == "LABEL" else "NO"
    made.LossyImageCompression = "01" if codec.startswith("jpeg") else "00"
    made.FocusMethod, made.ExtendedDepthOfField, made.VolumetricProperties = "AUTO", "NO", "VOLUME"
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    made.TotalPixelMatrixOriginSequence = [origin]
    made.OpticalPathSequence, made.NumberOfOpticalPaths = [_optical(about.get("power"), about.get("icc"))], 1
    made.TotalPixelMatrixFocalPlanes = 1
    made.SharedFunctionalGroupsSequence = [_shared(mpp, kind)]
    tiles = [encode(t, codec) for t in cut(image, tile)]
    made.NumberOfFrames = len(tiles)
    made.PixelData = b"".join(tiles) if codec == "raw" else encapsulate(tiles)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = codec != "raw"
    return made


def write_dicom(folder: Path, image: np.ndarray, codec: str = "raw", *, levels: int = 1, **about) -> Path:
    """A slide as a folder of files, with a label when `label` is given. mpp=(y, x) of level 0."""
    folder.mkdir(parents=True, exist_ok=True)
    mpp, label = about.pop("mpp", (0.5, 0.5)), about.pop("label", None)
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    uids = {key: generate_uid() for key in keys}
    for i in range(levels):
        scaled = tuple(m * 2**i for m in mpp)
        made = instance(image, codec, uids, scaled, number=i + 1, derived=i > 0, **about)
        pydicom.dcmwrite(folder / f"{about.get('name', 'level')}-{i}.dcm", made, enforce_file_format=True)
        image = half(image)
    if label is not None:
        made = instance(label, codec, uids, mpp, kind="LABEL", number=levels + 1, tile=label.shape[:2])
        pydicom.dcmwrite(folder / f"{about.get('name', 'level')}-label.dcm", made, enforce_file_format=True)
    return folder
