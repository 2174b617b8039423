"""Slides in vendors' formats for tests, which OpenSlide's own detection accepts."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from slidefiles import half

TILE = (256, 256)
BIF_TILE_PX = (1024, 1360)  # as its scanners write them
_SCN = "http://www.leica-microsystems.com/scn/2010/10/01"


def _jpeg(image: np.ndarray, **more) -> bytes:
    return imagecodecs.jpeg8_encode(np.ascontiguousarray(image), level=95, subsampling="444", **more)


def _attribute(name: str, value: str, kind: str = "IString") -> str:
    return f'<Attribute Name="{name}" Group="0x0" Element="0x0" PMSVR="{kind}">{value}</Attribute>'


def write_philips(path: Path, image: np.ndarray, *, levels: int = 2, mpp: float = 0.25) -> Path:
    """A Philips TIFF; its levels are halvings, the pixel spacing in mm is in an XML description."""
    spacing = [f'"{mpp * 2**i / 1000:.6f}" "{mpp * 2**i / 1000:.6f}"' for i in range(levels)]
    parts = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + _attribute("DICOM_PIXEL_SPACING", spacing[i], "IDoubleArray")
        + _attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", str(i), "IUInt16")
        + "</DataObject>"
        for i in range(levels)
    )
    scanned = (
        '<Array><DataObject ObjectType="DPScannedImage">'
        + _attribute("PIM_DP_IMAGE_TYPE", "WSI")
        + _attribute("DICOM_PIXEL_SPACING", spacing[0], "IDoubleArray")
        + _attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", f"<Array>{parts}</Array>", "IDataObjectArray")
        + "</DataObject></Array>"
    )
    words = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + _attribute("DICOM_MANUFACTURER", "PHILIPS")
        + _attribute("PIM_DP_SCANNED_IMAGES", scanned, "IDataObjectArray")
        + "</DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for i in range(levels):
            about = {"software": "Philips DP v1.0", "description": words} if i == 0 else {"subfiletype": 1}
            tif.write(image, tile=TILE, photometric="rgb", compression="zlib", metadata=None, **about)
            image = half(image)
    return path


def write_scn(path: Path, image: np.ndarray, *, levels: int = 2, mpp: float = 0.5, power: int = 20) -> Path:
    """A Leica SCN of one bright-field image, on a glass twice as large; its XML says sizes in nm."""
    height, width = image.shape[:2]
    size, glass = (
        f'sizeX="{round(n * width * mpp * 1000)}" sizeY="{round(n * height * mpp * 1000)}"' for n in (1, 2)
    )
    dimensions = "".join(
        f'<dimension sizeX="{width >> i}" sizeY="{height >> i}" r="{i}" ifd="{i}"/>' for i in range(levels)
    )
    words = (
        f'<?xml version="1.0"?><scn xmlns="{_SCN}" uuid="urn:uuid:0"><collection name="c" uuid="u" {glass} '
        f'barcode=""><image name="image" uuid="i"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<device model="Leica SCN400" version="1"/><pixels sizeX="{width}" sizeY="{height}">{dimensions}'
        f'</pixels><view {size} offsetX="{round(width * mpp * 500)}" '
        f'offsetY="{round(height * mpp * 250)}" spacingZ="0"/><scanSettings><objectiveSettings>'
        f"<objective>{power}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for i in range(levels):
            about = {"description": words} if i == 0 else {"subfiletype": 1}
            about |= {"resolution": (1e4 / mpp / 2**i,) * 2, "resolutionunit": "CENTIMETER"}
            tif.write(image, tile=TILE, photometric="rgb", compression="zlib", metadata=None, **about)
            image = half(image)
    return path


def write_bif(path: Path, image: np.ndarray, *, levels: int = 2, mpp: float = 0.25) -> Path:
    """A Ventana BIF of one area whose tiles do not overlap; of whole tiles."""
    high, wide = BIF_TILE_PX
    rows, cols = image.shape[0] // high, image.shape[1] // wide
    assert image.shape[:2] == (rows * high, cols * wide)
    joints = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{one + 1}" '
        f'Tile2="{two + 1}" OverlapX="0" OverlapY="0"/>'
        for way, one, two in _neighbours(rows, cols)
    )
    scan = f'<iScan Magnification="40" ScanRes="{mpp}" UnitNumber="1" Mode="brightfield"/>'
    stitched = (
        f'<EncodeInfo Ver="2"><SlideInfo><AoiInfo XIMAGESIZE="{wide}" YIMAGESIZE="{high}" NumRows="{rows}" '
        f'NumCols="{cols}" Pos-X="0" Pos-Y="0"/></SlideInfo><SlideStitchInfo><ImageInfo AOIScanned="1" '
        f'AOIIndex="0" NumRows="{rows}" NumCols="{cols}" Width="{wide}" Height="{high}" Pos-X="0" Pos-Y="0">'
        f'{joints}</ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin>'
        "</EncodeInfo>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        plain = {"photometric": "rgb", "metadata": None}
        label = np.full((60, 40, 3), 200, np.uint8)
        tif.write(label, description="Label_Image", extratags=[_xmp(f"<Metadata>{scan}</Metadata>")], **plain)
        for i in range(levels):
            words = f"level={i} mag={40 / 2**i:g} quality=90"
            tags = [_xmp(stitched)] if i == 0 else []
            tif.write(
                image, tile=(high, wide), compression="zlib", description=words, extratags=tags, **plain
            )
            image = half(image)
    return path


def write_trestle(path: Path, image: np.ndarray, *, levels: int = 2, overlap_px: int = 32) -> Path:
    """A Trestle TIFF, whose tiles of 128 px overlap."""
    overlaps = " ".join(f"{overlap_px >> i} {overlap_px >> i}" for i in range(levels))
    words = f"Background Color=FFFFFF;Objective Power=20;JPEG Quality=90;OverlapsXY= {overlaps} "
    with tifffile.TiffWriter(path) as tif:
        for i in range(levels):
            about = {"description": words} if i == 0 else {"subfiletype": 1}
            tif.write(image, tile=(128, 128), photometric="rgb", metadata=None, software="MedScan", **about)
            image = half(image)
    return path


def _xmp(text: str) -> tuple:
    data = text.encode()
    return (700, 1, len(data), data, True)


def _neighbours(rows: int, cols: int):
    """Tiles are numbered from the bottom in rows that change direction."""

    def number(row: int, col: int) -> int:
        up = rows - 1 - row
        return up * cols + (col if up % 2 == 0 else cols - 1 - col)

    for row in range(rows):
        for col in range(cols):
            if col + 1 < cols:
                yield "RIGHT", number(row, col), number(row, col + 1)
            if row + 1 < rows:
                yield "UP", number(row + 1, col), number(row, col)


def write_ndpi(
    path: Path, image: np.ndarray, *, levels: int = 2, mpp: float = 0.25, power: float = 40
) -> Path:
    """A Hamamatsu NDPI: classic TIFF with 8-byte links, a level one JPEG of a single strip."""
    with path.open("wb") as file:
        file.write(struct.pack("<2sHQ", b"II", 42, 0))
        link = 4
        for i in range(levels + 1):
            macro = i == levels
            data = _jpeg(image)
            at = file.tell()
            file.write(data + b"\0" * (len(data) % 2))
            make, software = file.tell(), file.tell() + 10
            file.write(b"Hamamatsu\0" + b"NDP.scan\0\0")
            res = file.tell()
            file.write(
                struct.pack("<4I", round(1e4 / mpp / 2**i * 1000), 1000, round(1e4 / mpp / 2**i * 1000), 1000)
            )
            lens = struct.unpack("<I", struct.pack("<f", -1.0 if macro else power / 2**i))[0]
            entries = [
                (254, 4, 1, 0), (256, 4, 1, image.shape[1]), (257, 4, 1, image.shape[0]), (259, 3, 1, 7),
                (262, 3, 1, 6), (271, 2, 10, make), (273, 4, 1, at), (277, 3, 1, 3),
                (278, 4, 1, image.shape[0]),
                (279, 4, 1, len(data)), (282, 5, 1, res), (283, 5, 1, res + 8), (296, 3, 1, 3),
                (305, 2, 10, software), (65420, 4, 1, 1), (65421, 11, 1, lens), (65422, 9, 1, 0),
                (65423, 9, 1, 0), (65424, 9, 1, 0),
            ]  # fmt: skip
            start = file.tell()
            file.seek(link)
            file.write(struct.pack("<Q", start))
            file.seek(start)
            file.write(struct.pack("<H", len(entries)))
            for code, kind, count, value in entries:
                file.write(struct.pack("<HHII", code, kind, count, value))
            link = file.tell()
            file.write(struct.pack("<Q", 0) + bytes(4 * len(entries)))  # high words of the values
            image = half(image)
    return path


def write_mirax(path: Path, image: np.ndarray, *, levels: int = 2, mpp: float = 0.25) -> Path:
    """A MIRAX slide without overlaps: tiles of 256 px as JPEG; an image of white tiles leaves them out."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    side, data, pages = 256, bytearray(), []
    rows, cols = -(-image.shape[0] // side), -(-image.shape[1] // side)
    per = 2 ** (levels - 1)
    rows, cols = -(-rows // per) * per, -(-cols // per) * per
    for i in range(levels):
        step, entries = 2**i, []
        for r in range(0, rows, step):
            for c in range(0, cols, step):
                tile = np.full((side, side, 3), 255, np.uint8)
                part = image[
                    r // step * side : (r // step + 1) * side, c // step * side : (c // step + 1) * side
                ]
                if part.size == 0 or part.min() == 255:
                    continue
                tile[: part.shape[0], : part.shape[1]] = part
                code = _jpeg(tile)
                entries.append((r * cols + c, len(data), len(code), 0))
                data += code
        pages.append(entries)
        image = half(image)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mirax_index(pages))
    (folder / "Slidedat.ini").write_text(_mirax_words(levels, rows, cols, mpp))
    path.write_bytes(b"MIRAX")
    return path


def _mirax_index(pages: list) -> bytes:
    """Version and id, two roots, a record per level; a record leads to an empty page and then to entries."""
    head = b"01.02" + b"0" * 32
    root = len(head) + 8
    records = root + 4 * len(pages)
    body, pointers = b"", []
    for entries in pages:
        at = records + len(body)
        pointers.append(at)
        body += struct.pack("<2i", 0, at + 8)
        body += struct.pack("<2i", len(entries), 0)
        body += b"".join(struct.pack("<4i", *entry) for entry in entries)
    return head + struct.pack("<2i", root, 0) + struct.pack(f"<{len(pages)}i", *pointers) + body


def _mirax_words(levels: int, rows: int, cols: int, mpp: float) -> str:
    sections = [f"LEVEL_{i}" for i in range(levels)]
    lines = [
        "[GENERAL]", "SLIDE_VERSION = 01.02", "SLIDE_ID = " + "0" * 32, f"IMAGENUMBER_X = {cols}",
        f"IMAGENUMBER_Y = {rows}", "OBJECTIVE_MAGNIFICATION = 40", "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]", "HIER_COUNT = 1", "NONHIER_COUNT = 0", "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {levels}",
        *(f"HIER_0_VAL_{i}_SECTION = {name}" for i, name in enumerate(sections)),
        "[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat",
    ]  # fmt: skip
    for i, name in enumerate(sections):
        lines += [
            f"[{name}]", "OVERLAP_X = 0", "OVERLAP_Y = 0", f"MICROMETER_PER_PIXEL_X = {mpp * 2**i}",
            f"MICROMETER_PER_PIXEL_Y = {mpp * 2**i}", "IMAGE_FORMAT = JPEG",
            "IMAGE_FILL_COLOR_BGR = 16777215",
            "DIGITIZER_WIDTH = 256", "DIGITIZER_HEIGHT = 256", f"IMAGE_CONCAT_FACTOR = {0 if i == 0 else 1}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"
