"""Slides: exact pixels at every magnification, tiles where the tissue is, bounded memory, refused files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tifffile
import torch
from monai.data import DataLoader
from PIL import Image

from monai_diffscore.data import SaveTilesd, Slide, SlideTiles, list_slides
from monai_diffscore.data.pictures import read_rgb, write_pyramid
from monai_diffscore.data.tiles import glass_colour, tissue_mask, tissue_pixels
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_rgb8, intensity_of, optical_density


def means(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of factor x factor pixels [3, h, w]."""
    channels, height, width = image.shape
    return image.reshape(channels, height // factor, factor, width // factor, factor).mean((2, 4))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 192, 256), dtype=np.uint8)


# ---- colours ----


def test_uint8_passes_and_ranges_are_explicit():
    eight = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    np.testing.assert_array_equal(as_rgb8(eight), eight)
    np.testing.assert_array_equal(as_rgb8(eight.astype(np.uint16) * 257, value_range=(0, 65535)), eight)
    np.testing.assert_array_equal(as_rgb8(eight / 255, value_range=(0, 1)), eight)
    np.testing.assert_array_equal(as_rgb8(eight.astype(np.float32), value_range=(0, 255)), eight)


def test_alpha_is_dropped_if_opaque_and_else_composed_on_white():
    colours = np.full((3, 2, 2), 100, np.uint8)
    alpha = np.array([[[255, 0], [51, 255]]], np.uint8)
    np.testing.assert_array_equal(as_rgb8(np.concatenate([colours, np.full_like(alpha, 255)])), colours)
    composed = as_rgb8(np.concatenate([colours, alpha]))
    np.testing.assert_array_equal(composed, np.broadcast_to([[100, 255], [224, 100]], (3, 2, 2)))  # 0.2 100 + 0.8 255


@pytest.mark.parametrize(
    ("image", "value_range", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), None, "EnsureChannelFirstd"),
        (np.zeros((1, 4, 4), np.uint8), None, "red, green and blue"),
        (np.full((3, 4, 4), 4095, np.uint16), None, "got uint16 from 4095 to 4095.*value_range"),
        (np.full((3, 4, 4), 0.5), None, "got float64.*value_range"),
        (np.full((3, 4, 4), np.nan), (0, 1), "48 of 48 values NaN"),
        (np.full((3, 4, 4), 2.0), (0, 1), r"values in the value_range \(0, 1\).*got 2 to 2"),
        (np.full((3, 4, 4), -1, np.int16), (0, 255), "got -1 to -1"),
    ],
)
def test_uncertain_colours_are_refused(image, value_range, message):
    with pytest.raises(DataError, match=message):
        as_rgb8(image, value_range=value_range)


def test_optical_density_is_exactly_undone_for_every_8_bit_value():
    values = torch.arange(256.0).expand(3, 256)
    for white in (255.0, (240.0, 238.0, 251.0)):
        density = optical_density(values, white)
        assert density.isfinite().all()
        torch.testing.assert_close(intensity_of(density, white), values, rtol=0, atol=1e-3)
    assert optical_density(torch.full((3, 1), 255.0)).abs().max() == 0


# ---- slides ----


def test_pixels_are_those_written_at_every_level_and_place(image, write_slide):
    slide = Slide(write_slide("a.tif", array=image))
    assert slide.size == (256, 192)
    assert slide.mpp_um == pytest.approx(0.5, rel=1e-3)
    assert [tuple(size) for size in slide.levels.sizes] == [(256, 192), (128, 96)]
    np.testing.assert_array_equal(slide.read((17, 31), (40, 50), 0.5), image[:, 31:81, 17:57])
    half = np.rint(means(image, 2))
    np.testing.assert_array_equal(slide.read((32, 64), (30, 20), 1.0), half[:, 32:52, 16:46])


@pytest.mark.parametrize("kind", ["pyramid", "one level", "picture"])
def test_a_coarser_pixel_is_the_mean_of_its_pixels(kind, image, write_slide, tmp_path):
    if kind == "picture":
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "a.png")
        slide = Slide(tmp_path / "a.png", assume_mpp_um=0.5)
    else:
        slide = Slide(write_slide("a.tif", array=image, levels=3 if kind == "pyramid" else 1))
    expected = means(image, 8)
    got = slide.read((0, 0), (32, 24), 4.0)
    # rows, columns and each level of the pyramid are rounded: half a grey level each time
    np.testing.assert_allclose(got, expected, atol=1 if kind != "pyramid" else 1.5)


def test_blocks_join_without_a_seam(monkeypatch, image, write_slide):
    slide = Slide(write_slide("a.tif", array=image, levels=1))
    for mpp_um in (1.5, 1.35):  # exact boxes, and the triangle filter
        whole = slide.read((3, 5), (60, 48), mpp_um).astype(int)
        monkeypatch.setattr("monai_diffscore.data.slides._BLOCK", 20)
        assert np.abs(slide.read((3, 5), (60, 48), mpp_um) - whole).max() <= 1
        monkeypatch.undo()


def test_resampling_keeps_places(write_slide):
    """A linear ramp stays the same ramp in the world: value = 16 + x / 2 at level-0 pixel x."""
    ramp = np.broadcast_to(16 + np.arange(256) // 2, (3, 192, 256)).astype(np.uint8)
    slide = Slide(write_slide("ramp.tif", array=ramp, levels=1))
    got = slide.read((20, 20), (60, 60), 0.8)[0, 30]
    x = 20 + (np.arange(60) + 0.5) * 1.6 - 0.5
    np.testing.assert_allclose(got, 16 + (x - 0.5) / 2, atol=1)


def test_beyond_the_edge_is_white(image, write_slide):
    got = Slide(write_slide("a.tif", array=image)).read((-10, 180), (20, 20), 0.5)
    np.testing.assert_array_equal(got[:, :12, 10:], image[:, 180:, :10])
    assert (got[:, 12:] == 255).all()
    assert (got[:, :, :10] == 255).all()


def test_a_finer_pixel_than_was_scanned_is_refused(image, write_slide):
    slide = Slide(write_slide("a.tif", array=image))
    np.testing.assert_array_equal(slide.read((0, 0), (64, 64), 0.495), image[:, :64, :64])  # within 2%
    with pytest.raises(DataError, match=r"a.tif.*at least the slide's, 0.5.*got 0.25"):
        slide.read((0, 0), (64, 64), 0.25)


@pytest.mark.parametrize("mpp_um", [None, 25_400 / 72])  # none, and the resolution of a screen
def test_a_missing_pixel_size_is_refused_and_assumed_by_name(mpp_um, image, write_slide):
    path = write_slide("a.tif", array=image, mpp_um=mpp_um)
    with pytest.raises(DataError, match=r"a.tif.*size of a pixel.*assume_mpp_um"):
        _ = Slide(path).mpp_um
    assert Slide(path, assume_mpp_um=0.25).mpp_um == 0.25
    with pytest.raises(DataError, match="assume_mpp_um"):
        SlideTiles([{"image": str(path)}], 64, 0.5)


def test_a_stated_pixel_size_is_not_overridden(image, write_slide):
    assert Slide(write_slide("a.tif", array=image), assume_mpp_um=0.25).mpp_um == pytest.approx(0.5, rel=1e-3)


def test_pixels_that_are_not_square_are_refused(image, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", image.transpose(1, 2, 0), tile=(64, 64), photometric="rgb", resolution=(20000, 10000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"square pixels.*got 0.5 x 1"):
        _ = Slide(tmp_path / "a.tif").mpp_um


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_ordinary_pictures_are_read_too(suffix, image, tmp_path):
    path = tmp_path / f"a.{suffix}"
    smooth = np.ascontiguousarray(np.broadcast_to(image[:, :1, :1], image.shape))
    if suffix == "tif":  # strips, which openslide does not read
        tifffile.imwrite(
            path, smooth.transpose(1, 2, 0), photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
        )
        assert Slide(path).mpp_um == pytest.approx(0.5)
    else:
        Image.fromarray(smooth.transpose(1, 2, 0)).save(path)
    slide = Slide(path, assume_mpp_um=0.5)
    np.testing.assert_allclose(slide.read((3, 4), (50, 60), 0.5).astype(int), smooth[:, :60, :50], atol=2)


def test_16_bit_pictures_need_a_range(image, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image.astype(np.uint16).transpose(1, 2, 0) * 257, photometric="rgb")
    with pytest.raises(DataError, match=r"a.tif.*value_range"):
        Slide(tmp_path / "a.tif", 0.5).read((0, 0), (8, 8), 0.5)
    read = Slide(tmp_path / "a.tif", 0.5, value_range=(0, 65535)).read((0, 0), (256, 192), 0.5)
    np.testing.assert_array_equal(read, image)


def test_transparent_and_palette_pictures_are_converted(image, tmp_path):
    rgba = np.concatenate([image, np.zeros_like(image[:1])])
    Image.fromarray(rgba.transpose(1, 2, 0)).save(tmp_path / "clear.png")
    assert (read_rgb(tmp_path / "clear.png") == 255).all()
    flat = Image.new("RGB", (8, 8), (10, 20, 30))
    flat.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    assert read_rgb(tmp_path / "palette.png")[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.svs", b"no slide"), ("a.tif", b"II*\0"), ("a.png", b"\x89PNG"), ("missing.svs", None), ("grey.png", "L")],
)
def test_unreadable_files_are_named(name, content, tmp_path):
    if content == "L":
        Image.new("L", (8, 8)).save(tmp_path / name)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        _ = Slide(tmp_path / name, assume_mpp_um=0.5).size


def test_large_pictures_are_refused_before_they_are_decoded(monkeypatch, image, tmp_path):
    monkeypatch.setattr("monai_diffscore.data.pictures._MOST_PICTURE_PIXELS", 1000)
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="tiled pyramidal TIFF"):
        read_rgb(tmp_path / "a.png")


def test_slides_are_listed_with_their_patients(tmp_path):
    for name in ("sub-01/a.svs", "TCGA-AB-1234-01Z-00-DX1.svs", "TCGA-AB-1234-01Z-00-DX2.svs", "b.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with pytest.warns(UserWarning, match="left out 1 x picture beside slides"):
        subjects = [slide["subject"] for slide in list_slides(tmp_path)]
    assert subjects == ["TCGA-AB-1234", "TCGA-AB-1234", "sub-01"]
    assert [slide["subject"] for slide in list_slides(tmp_path / "b.png")] == ["b.png"]
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DataError, match="slides or pictures"):
            list_slides(folder)


# ---- tissue and tiles ----


def test_tissue_absorbs_light():
    overview = np.full((3, 40, 40), 240, np.uint8)
    overview += np.random.default_rng(0).integers(-3, 4, overview.shape).astype(np.uint8)
    overview[:, 10:30, 5:20] = np.array([180, 120, 170], np.uint8)[:, None, None]
    overview[:, :, 35:] = 0  # a black edge of the scanner
    mask = tissue_mask(overview)
    expected = np.zeros((40, 40), bool)
    expected[10:30, 5:20] = True
    np.testing.assert_array_equal(mask, expected)
    assert glass_colour(overview) == pytest.approx((243, 243, 243), abs=1)


@pytest.mark.parametrize(("colour", "share"), [((240, 240, 240), 0), ((255, 255, 255), 0), ((180, 120, 170), 1)])
def test_slides_that_are_all_glass_or_all_tissue_are_not_cut_in_two(colour, share):
    noise = np.random.default_rng(0).integers(-3, 1, (3, 30, 30))
    overview = np.clip(np.array(colour)[:, None, None] + noise, 0, 255).astype(np.uint8)
    assert tissue_mask(overview).mean() == share


@pytest.fixture
def spotted(write_slide) -> str:
    """Glass with one rectangle of tissue: x 64..192, y 32..160."""
    image = np.full((3, 192, 256), 245, np.uint8)
    image[:, 32:160, 64:192] = np.random.default_rng(0).integers(60, 180, (3, 128, 128))
    return str(write_slide("spotted.tif", array=image))


def test_tiles_lie_on_the_grid_inside_the_slide_on_tissue(spotted):
    everything = SlideTiles([{"image": spotted}], 64, 0.5, min_tissue=0)
    expected = [[x, y] for y in (0, 64, 128) for x in (0, 64, 128, 192)]
    np.testing.assert_allclose(everything.corners[0], expected, atol=0.2)
    tissue = SlideTiles([{"image": spotted}], 64, 0.5, stride=32, min_tissue=1.0)
    np.testing.assert_allclose(tissue.corners[0], [[x, y] for y in (32, 64, 96) for x in (64, 96, 128)], atol=0.2)
    for corner in SlideTiles([{"image": spotted}], 50, 0.7, stride=7, min_tissue=0).corners[0]:
        assert (corner + 50 * 0.7 / 0.5 <= (256.5, 192.5)).all()


def test_the_tile_is_where_it_says(spotted):
    image = read_rgb(spotted)
    for item in SlideTiles([{"image": spotted}], 32, 0.5, min_tissue=0.3):
        x, y = (item["location"] - 16).floor().int().tolist()
        np.testing.assert_array_equal(item["image"].numpy(), image[:, y : y + 32, x : x + 32])
        assert item["image"].dtype == torch.uint8
        assert item["slide"] == item["image"].meta["filename_or_obj"] == spotted


def test_order_is_deterministic_and_count_spreads(spotted):
    options = {"tile_size": 32, "mpp_um": 0.5, "stride": 16}
    first, second = (SlideTiles([{"image": spotted}] * 2, **options) for _ in range(2))
    np.testing.assert_array_equal(first.corners[0], second.corners[0])
    assert len(first) == 2 * len(first.corners[0])
    torch.testing.assert_close(first[len(first) // 2]["image"], first[0]["image"])
    few = SlideTiles([{"image": spotted}], count=5, **options)
    assert len(few) == 5
    np.testing.assert_array_equal(few.corners[0][[0, -1]], first.corners[0][[0, -1]])
    with pytest.raises(IndexError):
        few[5]


def test_the_context_has_the_same_centre_and_ends_where_the_slide_does(write_slide):
    image = np.random.default_rng(0).integers(0, 200, (3, 256, 256), dtype=np.uint8)
    path = str(write_slide("a.tif", array=image))
    tiles = SlideTiles([{"image": path}], 32, 0.5, min_tissue=0, context_factor=4)
    middle = next(item for item in tiles if item["location"].round().tolist() == [144, 144])
    # 128 level-0 pixels around (144, 144): from 80 to 208, of which level 2 has the means of 4 x 4
    expected = means(image, 4)[:, 20:52, 20:52]
    np.testing.assert_allclose(middle["context"].numpy(), expected, atol=1.01)
    corner = tiles[0]["context"]  # around (16, 16): the first 12 of 32 rows and columns are outside
    outside = torch.zeros(32, 32, dtype=torch.bool)
    outside[:12] = outside[:, :12] = True
    assert torch.equal(corner.isnan().as_tensor(), outside.expand(3, 32, 32))


def test_a_slab_shows_neither_tiles_nor_context_of_the_other(write_slide):
    path = str(write_slide("a.tif", shape=(128, 256)))
    options = {"tile_size": 32, "mpp_um": 0.5, "stride": 8, "min_tissue": 0, "context_factor": 4, "held_out": 0.25}
    train, validation = (SlideTiles([{"image": path, "slab": slab}], **options) for slab in ("train", "validation"))
    assert train.corners[0][:, 0].max() <= 192 - 32 + 0.2
    assert validation.corners[0][:, 0].min() == 192
    seen = train[int(train.corners[0][:, 0].argmax())]["context"].isnan()[0].all(0)
    last = float(train.corners[0][:, 0].max()) + 16
    middles = last + (np.arange(32) + 0.5 - 16) * 4
    np.testing.assert_array_equal(seen.numpy(), middles > 192)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_with_workers_give_the_same_tiles(workers, spotted):
    tiles = SlideTiles([{"image": spotted}], 32, 0.5, context_factor=2, transform=lambda item: {"image": item["image"]})
    tiles[0]  # the handle is open before the fork
    batches = list(DataLoader(tiles, batch_size=4, num_workers=workers))
    images = torch.cat([batch["image"].as_tensor() for batch in batches])
    expected = torch.stack([tiles[index]["image"].as_tensor() for index in range(len(tiles))])
    assert torch.equal(images, expected)


def test_slides_travel_between_processes_closed(spotted):
    tiles = SlideTiles([{"image": spotted}], 32, 0.5)
    copy = pickle.loads(pickle.dumps(tiles))
    torch.testing.assert_close(copy[3]["image"], tiles[3]["image"])
    slide = Slide(spotted)
    assert slide.size == pickle.loads(pickle.dumps(slide)).size


def test_few_slides_are_open_at_once(write_slide):
    paths = [str(write_slide(f"{number}.tif", shape=(64, 64), seed=number)) for number in range(10)]
    tiles = SlideTiles([{"image": path} for path in paths], 64, 0.5, min_tissue=0)
    assert len(tiles) == 10
    assert [item["slide"] for item in tiles] == paths
    assert len(tiles._open) == 8


def test_blank_and_small_slides_say_so(write_slide):
    blank = str(write_slide("blank.tif", array=np.full((3, 192, 256), 245, np.uint8)))
    with pytest.raises(DataError, match=r"blank.tif.*50% tissue.*none in 1 slide\(s\), of sizes \[\(256, 192\)\]"):
        SlideTiles([{"image": blank}], 64, 0.5)
    with pytest.raises(DataError, match="at least one tile"):
        SlideTiles([{"image": blank}], 512, 0.5, min_tissue=0)
    with pytest.raises(ValueError, match="context_factor >= 1"):
        SlideTiles([{"image": blank}], 64, 0.5, context_factor=0.5)


def test_tissue_pixels_come_from_the_whole_slide(spotted):
    pixels, white = tissue_pixels(spotted, 0.5, count=2000)
    assert white == (245, 245, 245)
    assert 1000 < len(pixels) <= 2000
    assert pixels.max() < 180


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_saved_tiles_come_back_with_their_pixel_size(extension, image, tmp_path):
    save = SaveTilesd("pred", tmp_path, mpp_um=0.4, output_ext=extension)
    save({"pred": (torch.from_numpy(image) + 0.3).clip(0, 255), "seed": torch.tensor(7)})
    path = tmp_path / f"pred_0007{extension}"
    np.testing.assert_array_equal(read_rgb(path), image)
    if extension == ".tif":
        assert Slide(path).mpp_um == pytest.approx(0.4, rel=1e-3)
    with pytest.raises(DataError, match=r"pred_0001.*NaN"):
        save({"pred": torch.full((3, 8, 8), torch.nan), "seed": 1})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_pyramids_are_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(DataError, match="8 bits"):
        write_pyramid(np.zeros((3, 64, 64), np.float32), tmp_path / "a.tif", 0.5)
    assert not list(tmp_path.iterdir())
