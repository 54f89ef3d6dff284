"""Decodes ordinary pictures, and those in DICOM, into memory, and writes pyramids that slide readers open."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageOps

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_brightness, as_rgb8, on_white

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MICROMETRES = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_MOST_PICTURE_PIXELS = 64_000_000
#: Pillow's modes of colour, and the one to decode them to
_COLOUR_MODES = {"RGB": "RGB", "RGBA": "RGBA", "P": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
#: what makes a picture [C, H, W] upright, by the orientation of TIFF and EXIF (TIFF 6.0, tag 274)
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, :, ::-1],
    3: lambda image: image[:, ::-1, ::-1],
    4: lambda image: image[:, ::-1],
    5: lambda image: image.swapaxes(1, 2),
    6: lambda image: np.rot90(image, -1, (1, 2)),
    7: lambda image: image[:, ::-1, ::-1].swapaxes(1, 2),
    8: lambda image: np.rot90(image, 1, (1, 2)),
}
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I", "F")


def unreadable(path: object, error: Exception) -> DataError:
    """The error for a file that does not open."""
    return DataError(
        path,
        expected="a readable slide or picture",
        got=f"{type(error).__name__}: {error}",
        remedy="The file is missing, damaged or of another kind: replace it, or remove it from the folder.",
    )


def read_picture(
    path: str | Path, channels: int, value_range: tuple[float, float] | None = None, key: str = "image"
) -> np.ndarray:
    """Decodes a picture of 1 or 3 channels, float32 [channels, H, W] in 0 to 255.

    A colour file with three equal channels is grey. Grey of more than 8 bits keeps its steps; colours have 8 bits.

    Raises:
        DataError: as :func:`read_rgb`; for a grey file and 3 channels, or a colour file and 1 channel.
    """
    if channels not in (1, 3):
        raise DataError(
            path, key=key, expected="channels 1 (grey) or 3 (red, green, blue) for pictures", got=f"{channels}",
            remedy="Write arrays of more channels to .npy files.",
        )  # fmt: skip
    image = read_rgb(path, value_range) if channels == 3 else _read_grey(path, value_range, key)
    return image.astype(np.float32)


def _read_grey(path: str | Path, value_range: tuple[float, float] | None, key: str) -> np.ndarray:
    try:
        image = read_values(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise anything
        raise unreadable(path, error) from error
    if image.ndim == 3 and len(image) == 3:
        if (image != image[:1]).any():
            raise DataError(
                path, key=key, expected="a grey picture", got="colours that differ",
                remedy="Give --image_channels 3 if all have colours, else convert them to one kind.",
            )  # fmt: skip
        image = image[:1]
    if len(image) == 2 and image.dtype != np.uint8:
        raise DataError(
            path, key=key, expected="8 bits with alpha", got=f"{image.dtype}", remedy="Export it without alpha.",
        )  # fmt: skip
    return as_brightness(on_white(image) if len(image) == 2 else image, path, key, value_range)


def read_values(path: str | Path) -> np.ndarray:
    """A picture [C, H, W] in the values of its file: 1 or 3 channels, or 2 with alpha.

    Raises:
        Exception: whatever its decoder raises for a damaged file.
    """
    path = str(path)
    suffix = Path(path).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return _read_tiff(path, ("YX", "YXS", "SYX"))
    if suffix not in SUFFIXES:
        return _read_projection(path)
    with Image.open(path) as file:
        _check_picture_size(path, file.size[0] * file.size[1])
        if file.mode not in _GREY_MODES:
            return as_rgb8(_read_picture(path), path)
        if file.mode == "LA" and any(";16" in str(tile[3]) for tile in file.tile):
            raise _too_many_bits(path)
        pixels = np.asarray(_upright(file.convert("L") if file.mode == "1" else file))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_rgb(path: str | Path, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Decodes a picture (PNG, JPEG, BMP, any TIFF, photographs in DICOM), uint8 [3, H, W].

    Raises:
        DataError: for an unreadable file, a picture without colours, more than 64 million pixels, or more than 8 bits
            without ``value_range``.
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix in (".tif", ".tiff"):
            image = _read_tiff(str(path))
        else:
            image = _read_picture(str(path)) if suffix in SUFFIXES else _read_projection(str(path))
    except DataError:
        raise
    except Exception as error:  # decoders raise anything
        raise unreadable(path, error) from error
    return as_rgb8(image, path, value_range=value_range)


def _read_projection(path: str) -> np.ndarray:
    r"""The brightness of a projection or photograph in DICOM [1 or 3, H, W], in the values of its modality.

    MONOCHROME1 shows small values bright. The values v of b stored bits become :math:`2^b - 1 - v`, or -1 - v if they
    have a sign, before the rescaling (PS3.3 C.7.6.3.1.2 and C.11.1).
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut

    header = pydicom.dcmread(path, force=True)
    _check_picture_size(path, int(header.Rows) * int(header.Columns))
    values = header.pixel_array
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise DataError(
            path, expected="one picture", got=f"{header.NumberOfFrames} frames", remedy="Export one frame.",
        )  # fmt: skip
    if header.PhotometricInterpretation == "MONOCHROME1":
        largest = -1 if header.PixelRepresentation else 2 ** int(header.BitsStored) - 1
        values = (largest - values.astype(np.int64)).astype(values.dtype)
    values = apply_modality_lut(values, header) if values.ndim == 2 else values
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _read_tiff(path: str, kinds: tuple[str, ...] = ("YXS", "SYX")) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0].levels[0]
        axes, shape = series.axes.replace("C", "S"), series.shape
        _check_picture_size(path, shape[axes.index("X")] * shape[axes.index("Y")])
        image: np.ndarray = series.asarray()
        orientation = _orientation(file)
    if axes not in kinds:
        raise DataError(
            path, expected=f"one {'' if 'YX' in kinds else 'colour '}picture (axes {' or '.join(kinds)})",
            got=f"axes {axes} of shape {shape}", remedy=f"Export one {'' if 'YX' in kinds else 'colour '}page.",
        )  # fmt: skip
    if axes == "YX":
        image = image[None]
    return _TURNS[orientation](image.transpose(2, 0, 1) if axes == "YXS" else image)


def is_tiled(path: str | Path) -> bool:
    """Whether a TIFF has tiles, as slides have; false for a damaged file, which its reader reports."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.pages.first.is_tiled)
    except (tifffile.TiffFileError, OSError, IndexError):
        return False


def tiff_is_upright(path: str) -> bool:
    """Whether the rows of a TIFF are from the top and its columns from the left, as its orientation says."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        return _orientation(file) == 1


def _orientation(file: Any) -> int:
    tags = file.pages.first.tags
    stated = int(tags["Orientation"].value) if "Orientation" in tags else 1
    return stated if stated in _TURNS else 1


def _read_picture(path: str) -> np.ndarray:
    with Image.open(path) as file:
        _check_picture_size(path, file.size[0] * file.size[1])
        if any(";16" in str(tile[3]) for tile in file.tile):
            raise _too_many_bits(path)
        if file.mode not in _COLOUR_MODES:
            raise DataError(
                path, expected="a colour picture", got=f"the mode {file.mode}", remedy="Convert it to RGB.",
            )  # fmt: skip
        return np.asarray(_upright(file).convert(_COLOUR_MODES[file.mode])).transpose(2, 0, 1)


def _upright(file: Image.Image) -> Image.Image:
    """The picture as a viewer shows it: turned and mirrored by its EXIF orientation."""
    return ImageOps.exif_transpose(file)


def _too_many_bits(path: str) -> DataError:
    return DataError(
        path,
        expected="8 bits a colour",
        got="a picture of 16 bits, half of which the decoder would drop silently",
        remedy="Convert it to TIFF and state its --value_range.",
    )


def _check_picture_size(path: str, pixels: int) -> None:
    if pixels > _MOST_PICTURE_PIXELS:
        raise DataError(
            path,
            expected=f"a tiled slide, or a picture of at most {_MOST_PICTURE_PIXELS // 10**6} million pixels",
            got=f"{pixels / 1e6:.0f} million pixels in a file that is decoded whole",
            remedy="Convert it to a tiled pyramidal TIFF (vips tiffsave IN OUT --tile --pyramid).",
        )


def tiff_mpp(path: str) -> tuple[float | None, float | None]:
    """The pixel size along x and y in micrometres, from the tags or the OME-XML of a TIFF; None if it states none.

    Source: OME data model, PhysicalSizeX and PhysicalSizeXUnit (micrometres without a unit).
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.ome_metadata:
            return _ome_mpp(file.ome_metadata)
        tags = file.pages.first.tags
        unit = {2: 25_400.0, 3: 10_000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0)
        if unit is None or "XResolution" not in tags or "YResolution" not in tags:
            return None, None
        x, y = (tags[name].value for name in ("XResolution", "YResolution"))
    return tuple(unit * below / above if above else None for above, below in (x, y))  # type: ignore[return-value]


def _ome_mpp(text: str) -> tuple[float | None, float | None]:
    pixels = next((node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, None
    sizes = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        scale = _MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(float(size) * scale if size is not None and scale is not None else None)
    return sizes[0], sizes[1]


def write_pyramid(
    image: np.ndarray, path: str | Path, mpp_um: float | None, tile: int = 256, levels: int = 3, description: str = ""
) -> None:
    """Writes 8-bit RGB [3, H, W] as a tiled pyramidal TIFF that openslide opens, whole or not at all.

    Each level halves the one before by the mean of 2 x 2 pixels; a last odd row or column is dropped.

    Args:
        image: in memory.
        path: of the file.
        mpp_um: size of a pixel; None states none.
        tile: side of a tile, a multiple of 16.
        levels: largest number of levels; no level is smaller than a tile.
        description: for the file's ImageDescription.
    """
    import tifffile

    pixels = np.ascontiguousarray(as_rgb8(image, path).transpose(1, 2, 0))
    memory = io.BytesIO()
    with tifffile.TiffWriter(memory) as tiff:
        for level in range(levels):
            tiff.write(
                pixels,
                tile=(tile, tile),
                photometric="rgb",
                compression=None,
                subfiletype=int(level > 0),
                resolution=None if mpp_um is None else (1e4 / (mpp_um * 2**level),) * 2,
                resolutionunit="NONE" if mpp_um is None else "CENTIMETER",
                description=description if level == 0 else None,
                metadata=None,
            )
            if min(pixels.shape[:2]) < 2 * tile:
                break
            height, width = (side // 2 * 2 for side in pixels.shape[:2])
            quarters = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
            pixels = np.rint(quarters.mean((1, 3))).astype(np.uint8)
    with whole_file(path) as file:
        file.write(memory.getbuffer())
