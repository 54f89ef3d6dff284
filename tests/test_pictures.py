"""What picture files say of themselves: rotation, pixel size, mode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from monai_diffscore.data import Slide
from monai_diffscore.data.pictures import read_picture, tiff_mpp

tifffile = pytest.importorskip("tifffile")
RGB = np.random.default_rng(0).integers(0, 255, (6, 4, 3)).astype(np.uint8)
#: EXIF orientation to the transposition that a camera has applied; a viewer undoes it
STORED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, orientation, channels):
    upright = Image.fromarray(RGB if channels == 3 else RGB[..., 0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(STORED[orientation]).save(tmp_path / "a.png", exif=exif)
    right = np.asarray(upright).reshape(6, 4, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", channels), right)


def test_palettes_and_inks_are_decoded_to_colours(tmp_path):
    few = Image.fromarray(RGB // 128 * 255)
    few.quantize(8).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png", 3), np.asarray(few).transpose(2, 0, 1))
    inks = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).convert("CMYK")
    inks.save(tmp_path / "inks.jpg", quality=100)
    np.testing.assert_allclose(read_picture(tmp_path / "inks.jpg", 3)[:, 4, 4], (200, 100, 50), atol=3)


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.5), ("nm", 500.0), ("mm", 0.0005)])
def test_the_pixel_size_of_ome_xml_is_read_in_its_unit(tmp_path, unit, size):
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    metadata = {"axes": "YXS"}
    for axis in "XY":
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, ome=True, photometric="rgb", tile=(128, 128), metadata=metadata)
    assert tiff_mpp(str(path)) == pytest.approx((0.5, 0.5))
    assert Slide(path).mpp_um == pytest.approx(0.5)
