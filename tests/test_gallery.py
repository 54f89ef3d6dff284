"""Galleries: every dimension is a picture, and the grey values of a picture are those of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import check_picture
from PIL import Image

from monai_diffscore.gallery import ColourMap, save_findings, save_gallery


@pytest.mark.parametrize("shape", [(2,), (20,), (1, 32), (1, 16, 16), (3, 16, 16), (1, 8, 8, 8)])
def test_galleries_of_every_dimension_are_pictures(shape, tmp_path):
    samples = torch.randn(5, *shape)
    path = save_gallery(samples, tmp_path / "a/gallery.png", "title", reference=samples)
    check_picture(path, grey=shape[0] == 1 and len(shape) > 2)
    assert [f.name for f in path.parent.iterdir()] == ["gallery.png"]


def test_galleries_refuse_other_shapes(tmp_path):
    with pytest.raises(ValueError, match="A gallery shows"):
        save_gallery(torch.zeros(3), tmp_path / "x.png")


def test_an_image_lies_with_its_first_axis_to_the_right_and_its_second_upwards(tmp_path):
    """Four grey values from black (-1) to white (1), each a quarter of the image; the third quarter is top left."""
    image = torch.tensor([[-1.0, 1 / 3], [-1 / 3, 1.0]])[None, None]  # [x, y]
    with Image.open(save_gallery(image, tmp_path / "x.png")) as picture:
        pixels = np.asarray(picture.convert("L"))
    places = {grey: np.argwhere(pixels == grey).mean(0) for grey in (85, 170)}
    assert places[170][0] < places[85][0]  # y = 1 is above y = 0
    assert places[170][1] < places[85][1]  # x = 0 is left of x = 1
    quarter = (pixels == 85).sum()
    assert quarter > 500
    assert abs(int((pixels == 170).sum()) - quarter) < 0.1 * quarter
    assert (pixels < 5).sum() > 0.9 * quarter


def test_marked_voxels_have_a_red_outline(tmp_path):
    image, marked = torch.zeros(1, 32, 32), torch.zeros(32, 32)
    marked[8:24, 8:24] = 1
    scores = ColourMap("score", torch.rand(32, 32), 0, 1, "viridis")

    def red(mask: torch.Tensor, name: str) -> int:
        with Image.open(save_findings(image, mask, [scores], tmp_path / name, "a case", [0, 0])) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return int(((pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(-1)).sum())

    assert red(marked, "marked.png") > 200
    assert red(torch.zeros(32, 32), "nothing.png") == 0
