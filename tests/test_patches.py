"""Where a patch is in the patient, and masks that go with it: through flips, crops, rotations and resampling."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    Orientationd,
    RandAffined,
    RandFlipd,
    RandSpatialCropd,
    Spacingd,
    SqueezeDimd,
)

from monai_diffscore.data import BlankVolumed, GridPatchesd, LoadVolumed, PositionChannelsd
from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.engines import PrepareScoreBatch
from monai_diffscore.errors import DataError
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise
from monai_diffscore.networks import ConditionEncoder, ScoreUNet

SHAPE = (40, 36, 32)
# an oblique LPS file of unequal spacing, far from the origin
AFFINE = np.array([[-1.5, 0.1, 0, 60], [0.1, -2.0, 0.2, 40], [0, 0.2, 3.0, -500], [0, 0, 0, 1.0]])


def world_volume() -> MetaTensor:
    """A volume of three channels whose intensities **are** the world coordinates of the voxels, in mm."""
    indices = np.stack(np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij"))
    world = np.einsum("wd,d...->w...", AFFINE[:3, :3], indices) + AFFINE[:3, 3].reshape(3, 1, 1, 1)
    meta = {"original_affine": AFFINE, "spatial_shape": np.array(SHAPE)}
    return MetaTensor(torch.from_numpy(world).float(), affine=torch.from_numpy(AFFINE), meta=meta)


SPATIAL = {
    "none": [],
    "orientation_and_spacing": [
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=[2.0, 2.0, 2.0], mode="bilinear"),
        CenterSpatialCropd("image", [20, 20, 20]),
    ],
    "crop_and_flips": [
        RandSpatialCropd("image", [16, 12, 8], random_size=False),
        RandFlipd("image", prob=1, spatial_axis=0),
        RandFlipd("image", prob=1, spatial_axis=2),
    ],
    "rotation_and_zoom": [
        RandSpatialCropd("image", [28, 28, 28], random_size=False),
        RandAffined("image", prob=1, spatial_size=[12, 12, 12], rotate_range=[0.2] * 3, scale_range=[0.1] * 3),
    ],
}


@pytest.mark.parametrize("transforms", SPATIAL.values(), ids=SPATIAL)
def test_positions_are_the_world_millimetres_of_the_voxels(transforms):
    """Linear interpolation moves a linear function exactly: image and affine must give the same positions."""
    transform = Compose([*transforms, PositionChannelsd("image", scale_mm=50.0)]).set_random_state(3)
    patch = transform({"image": world_volume()})
    assert patch["position"].dtype == torch.float32
    torch.testing.assert_close(
        50 * patch["position"].as_tensor(), patch["image"].as_tensor(), rtol=0, atol=2e-3, check_dtype=False
    )


def test_sliding_windows_know_where_they_are():
    patches = Compose([GridPatchesd("image", (16, 16, 16), 100), PositionChannelsd("image", scale_mm=1.0)])(
        {"image": world_volume()}
    )
    assert len(patches) > 8
    for patch in patches:
        torch.testing.assert_close(patch["position"].as_tensor(), patch["image"].as_tensor(), rtol=0, atol=1e-3)
    assert len({tuple(patch["position"][:, 0, 0, 0].tolist()) for patch in patches}) == len(patches)


def test_slices_keep_their_height():
    """A 2-D slice of a volume has three coordinates: which slice it is matters most."""
    cut = Compose([RandSpatialCropd("image", [24, 24, 1], random_size=False), PositionChannelsd("image", scale_mm=1.0),
                   SqueezeDimd(["image", "position"], dim=-1)])  # fmt: skip
    patch = cut({"image": world_volume()})
    assert patch["position"].shape == (3, 24, 24)
    torch.testing.assert_close(patch["position"].as_tensor(), patch["image"].as_tensor(), rtol=0, atol=1e-3)


def test_the_centre_of_the_file_can_be_the_origin(tmp_path):
    """So that patients who lay elsewhere in the scanner agree; read from the file, not from the patch."""
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "far.nii")
    load = Compose([LoadVolumed("image"), Orientationd("image", axcodes="RAS", labels=None),
                    PositionChannelsd("image", scale_mm=1.0, origin="volume"),
                    CenterSpatialCropd(["image"], [4, 4, 4]),
                    PositionChannelsd("image", "cropped", scale_mm=1.0, origin="volume")])  # fmt: skip
    case = load({"image": str(tmp_path / "far.nii")})
    middle = case["position"].as_tensor().flatten(1).mean(1)
    torch.testing.assert_close(middle, torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        case["cropped"].as_tensor(), CenterSpatialCropd("position", [4, 4, 4])(case)["position"].as_tensor()
    )


def test_positions_need_a_geometry():
    with pytest.raises(DataError, match="MetaTensor"):
        PositionChannelsd("image")({"image": torch.zeros(1, 4, 4, 4)})
    for arguments in ({"scale_mm": 0.0}, {"origin": "patch"}):
        with pytest.raises(ValueError, match="scale_mm > 0"):
            PositionChannelsd("image", **arguments)


def test_a_body_region_mask_and_positions_condition_a_model():
    """Cropped with the image, concatenated to it: the loss sees them, and a model learns to need them."""
    torch.manual_seed(0)
    mask = torch.zeros(1, *SHAPE)
    mask[:, :, :18] = 1
    image = (2 * mask - 1) + 0.05 * torch.randn(1, *SHAPE)  # the region decides the intensity
    crop = Compose([RandSpatialCropd(["image", "mask"], [8, 8, 8], random_size=False),
                    PositionChannelsd("image", scale_mm=60.0)])  # fmt: skip
    case = {"image": MetaTensor(image, affine=torch.from_numpy(AFFINE)), "mask": MetaTensor(mask)}
    loader = DataLoader(Dataset([case] * 8, crop), batch_size=8)
    condition = ConditionEncoder(concat={"mask": 1, "position": 3}, width=8)
    network = ScoreUNet(3, 1, 1, channels=[8, 16], num_res_blocks=1, num_head_channels=8, condition=condition)
    denoiser = Denoiser(network, EDMPreconditioning(1.0))
    loss, prepare = DenoisingLoss(LogNormalNoise(0.5, 0.5)), PrepareScoreBatch(["mask", "position"])
    optimizer = torch.optim.Adam(denoiser.parameters(), 5e-3)
    for _ in range(60):
        for batch in loader:
            x0, _, _, fields = prepare(batch)
            assert torch.equal(fields["mask"] > 0.5, x0.as_tensor() > 0)  # the same voxels
            optimizer.zero_grad()
            loss(denoiser, x0.as_tensor(), **fields).mean().backward()
            optimizer.step()
    with torch.no_grad():
        sigma = torch.full((len(x0),), 3.0)  # so noisy that the image alone says little
        noisy = x0.as_tensor() + 3 * torch.randn(x0.shape)
        right = (denoiser(noisy, sigma, **fields) - x0.as_tensor()).square().mean()
        wrong = (denoiser(noisy, sigma, **{**fields, "mask": 1 - fields["mask"]}) - x0.as_tensor()).square().mean()
    assert right < 0.5 * wrong, (right, wrong)


@pytest.mark.parametrize("shape", [(20, 18), (20, 18, 1), (20, 18, 4)])
def test_two_dimensional_images_become_volumes_of_one_slice(shape, tmp_path):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.5, 3.0, 1.0])), tmp_path / "slice.nii.gz")
    volume = LoadVolumed("image", slices=True)({"image": str(tmp_path / "slice.nii.gz")})["image"]
    assert volume.shape == (1, *(*shape, 1)[:3])
    np.testing.assert_allclose(volume.affine, np.diag([2.0, 2.5, 3.0, 1.0]))
    np.testing.assert_array_equal(volume[0].numpy().reshape(shape), array)
    if shape[2:] != (4,):  # what a bundle of volumes cannot use
        with pytest.raises(DataError, match="a readable 3-D volume"):
            LoadVolumed("image")({"image": str(tmp_path / "slice.nii.gz")})


def test_blank_slices_lie_in_space():
    blank = BlankVolumed("image", shape=(4, 6), spacing_mm=(2, 3), value=-1000.0)({})["image"]
    assert blank.shape == (1, 4, 6)
    np.testing.assert_allclose(blank.affine, [[2, 0, 0, -3], [0, 3, 0, -7.5], [0, 0, 1, 0], [0, 0, 0, 1]])
