"""Kinds of files that look like images of another kind: each is read as it is meant, or left out by name."""

from __future__ import annotations

import case_folders
import nibabel as nib
import numpy as np
import pytest
import tifffile
from dicom_series import phantom, write_series
from PIL import Image
from small_data import stained

from monai_diffscore.data import LoadVolumed, list_volumes
from monai_diffscore.data.cases import list_cases
from monai_diffscore.data.cases.content import holds_label_map, shape_of
from monai_diffscore.data.pictures import read_picture
from monai_diffscore.data.slides import Slide
from monai_diffscore.errors import DataError

PROJECTIONS = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}


@pytest.mark.parametrize("modality", PROJECTIONS)
def test_projections_in_dicom_are_no_volumes(modality, tmp_path):
    """Alone they are refused with a remedy; beside a CT they are left out by their modality."""

    def edit(dataset, _):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PROJECTIONS[modality]
        dataset.Modality = modality

    write_series(tmp_path / "x/one", phantom(1), modality="CR", uid="1.2.3", edit=edit)
    with pytest.raises(DataError, match=rf"1 x {modality} series.*pictures.*--value_range"):
        list_volumes(tmp_path / "x")
    write_series(tmp_path / "x/ct", phantom(4), uid="1.2.4")
    cases = list_cases(tmp_path / "x")
    assert [list(case.images.values()) for case in cases] == [[str(tmp_path / "x/ct")]]
    assert cases.reasons == {f"{modality} series": 1}


@pytest.mark.parametrize("components", [1, 2, 3])
def test_components_of_vectors_are_channels(components, tmp_path):
    """NIfTI keeps the components of a displacement field on the fifth axis; a time axis beside it is refused."""
    values = np.random.default_rng(0).normal(size=(8, 9, 10, 1, components)).astype(np.float32)
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    image = nib.Nifti1Image(values, affine)
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "warp.nii.gz")
    volume = LoadVolumed("image", channels=components)({"image": str(tmp_path / "warp.nii.gz")})["image"]
    np.testing.assert_array_equal(volume.numpy(), values[:, :, :, 0].transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(volume.affine.numpy(), affine)
    with pytest.raises(DataError, match=rf"warp\.nii\.gz.*got {components} channels.*--image ROLE"):
        LoadVolumed("image", channels=4)({"image": str(tmp_path / "warp.nii.gz")})
    nib.save(nib.Nifti1Image(np.repeat(values, 2, 3), affine), tmp_path / "warp.nii.gz")
    with pytest.raises(DataError, match=r"warp\.nii\.gz.*readable 3-D volume"):
        LoadVolumed("image", channels=components)({"image": str(tmp_path / "warp.nii.gz")})


def test_a_field_of_integers_is_no_label_map(tmp_path):
    """A packed field of few values is small, as label maps are."""
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 1, 3), np.uint8), np.eye(4)), tmp_path / "warp.nii.gz")
    assert not holds_label_map(tmp_path / "warp.nii.gz")


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("packed", [True, False])
def test_the_content_tells_whether_a_nifti_file_is_packed(version, packed, tmp_path):
    """A copy under the wrong ending is a copy; alone it has the values and the grid of the right one."""
    values = np.random.default_rng(0).integers(1, 900, (5, 6, 7)).astype(np.int16)
    right, wrong = ("a.nii.gz", "b.NII") if packed else ("a.nii", "b.nii.gz")
    nib.save(version(values, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / right)
    (tmp_path / wrong).write_bytes((tmp_path / right).read_bytes())
    volumes = [LoadVolumed("image")({"image": str(tmp_path / name)})["image"] for name in (right, wrong)]
    for volume in volumes:
        np.testing.assert_array_equal(volume.numpy()[0], values)
        np.testing.assert_array_equal(volume.affine.numpy(), volumes[0].affine.numpy())
    cases = list_cases(tmp_path)
    assert [list(case.images.values()) for case in cases] == [[str(tmp_path / right)]]
    assert cases.reasons == {"same content as another file": 1}
    assert shape_of(tmp_path / wrong) == (5, 6, 7)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"<!DOCTYPE html>", b"\x1f\x8b" + bytes(400)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_that_are_no_nifti_are_refused_by_name(content, name, tmp_path):
    case_folders.images(tmp_path, "b.nii.gz")
    (tmp_path / name).write_bytes(content)
    assert len(list_cases(tmp_path)) == 2
    with pytest.raises(DataError, match=r"a\.nii.*readable 3-D volume.*damaged or not an image"):
        LoadVolumed("image")({"image": str(tmp_path / name)})


POINTERS = {
    "annex": "/annex/objects/MD5E-s100--0123456789abcdef.nii.gz\n",
    "lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 100\n",
}


@pytest.mark.parametrize("store", POINTERS)
def test_pointers_to_files_that_are_not_fetched_are_told(store, tmp_path):
    case_folders.images(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    for hidden in (".git/annex/objects", ".datalad", ".dvc/cache"):
        case_folders.images(tmp_path, f"{hidden}/x.nii.gz")
    pointer = tmp_path / "sub-2/anat/sub-2_T1w.nii.gz"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(POINTERS[store])
    cases = list_cases(tmp_path)
    assert cases.subjects == ["sub-1"]
    assert cases.reasons == {"hidden folder": 3, "pointer to a file that is not fetched": 1}
    with pytest.raises(DataError, match=r"not fetched.*(annex|lfs)"):
        list_volumes(pointer.parent)


#: how a picture is stored whose viewer turns it upright, by the EXIF orientation
STORED = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.swapaxes(0, 1),
    6: lambda up: np.rot90(up),
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),
    8: lambda up: np.rot90(up, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_upright_as_a_viewer_shows_them(orientation, channels, tmp_path):
    up = np.random.default_rng(0).integers(0, 255, (12, 8, channels)).astype(np.uint8)
    up[0, 0] = 255  # colours that differ
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](up))
    Image.fromarray(stored if channels == 3 else stored[..., 0]).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", channels), up.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_orientation_of_a_tiff_makes_it_upright(orientation, channels, tmp_path):
    """Also of a picture that is read as a slide; openslide ignores the tag of a tiled slide, which is refused."""
    up = np.random.default_rng(0).integers(0, 255, (32, 16, channels)).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation](up if channels == 3 else up[..., 0]))
    options = {"photometric": "rgb" if channels == 3 else "minisblack", "metadata": None}
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "x.tif", stored, extratags=tag, **options)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tif", channels), up.transpose(2, 0, 1))
    if channels == 3:
        np.testing.assert_array_equal(
            Slide(tmp_path / "x.tif", assume_mpp_um=0.5).read((0, 0), (16, 32), 0.5), up.transpose(2, 0, 1)
        )
        tifffile.imwrite(
            tmp_path / "t.tif", stained((64, 64)).transpose(1, 2, 0), tile=(32, 32), extratags=tag, **options
        )
        slide = Slide(tmp_path / "t.tif", assume_mpp_um=0.5)
        if orientation == 1:
            assert slide.size == (64, 64)
        else:
            with pytest.raises(DataError, match=r"t\.tif.*upper left.*autorot"):
                _ = slide.size


@pytest.mark.parametrize(("size", "unit"), [(0.5, "µm"), (500.0, "nm"), (0.0005, "mm")])
def test_the_pixel_size_of_a_slide_comes_from_its_ome_xml(size, unit, tmp_path):
    metadata = {"axes": "YXS"}
    for axis in "XY":
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    pixels = stained((128, 128)).transpose(1, 2, 0)
    file = tmp_path / "slide.ome.tif"
    tifffile.imwrite(file, pixels, ome=True, photometric="rgb", tile=(64, 64), metadata=metadata)
    assert Slide(file).mpp_um == pytest.approx(0.5)
