"""Lists image files, splits them by subject, loads them, and rejects data that would ruin a model."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import LoadImage, MapTransform

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.cases.listing import list_cases
from monai_diffscore.data.cases.names import ending
from monai_diffscore.data.dicom import ReadingRules, holds_dicom, read_dicom_series
from monai_diffscore.data.files import kinds_in_words
from monai_diffscore.data.nibabel_images import is_misnamed, is_vector, open_image, read_channels
from monai_diffscore.data.nifti_header import NIFTI, check_nifti_header
from monai_diffscore.data.paths import locate, names_series, split_channel
from monai_diffscore.errors import DataError


def list_volumes(
    path: str | Path,
    key: str = "image",
    left_out: Sequence[str] = (),
    layout: str = "auto",
    image: str | Sequence[str] = "",
    subject: str = "",
    cases: str | Path = "",
    conditions: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The images of the cases of a path, sorted by path: ``{key: path, "subject": name}``, and stated conditions.

    A warning of one line names the reasons for the files that are left out.

    Args:
        path: folder, file, table or datalist, as :func:`~monai_diffscore.data.cases.list_cases` reads it.
        key: of the path.
        left_out: files and folders below ``path`` that are not read.
        layout, subject, cases: of :func:`~monai_diffscore.data.cases.list_cases`.
        image, conditions: of :meth:`~monai_diffscore.data.cases.Cases.images`, which choose the roles.
    Raises:
        DataError: as :func:`~monai_diffscore.data.cases.list_cases`; for a path without an image.
    """
    return listed_cases(path, key, left_out, layout, subject, cases).images(image, key, conditions)


def listed_cases(
    path: str | Path,
    key: str = "image",
    left_out: Sequence[str] = (),
    layout: str = "auto",
    subject: str = "",
    cases: str | Path = "",
    masks_alone: bool = False,
) -> Cases:
    """The cases of a path with images. Warns, and takes arguments, as :func:`list_volumes`.

    ``masks_alone`` adds the cases that have a mask and no image, for a task that draws it.
    """
    try:
        listing = list_cases(path, layout, subject, left_out, cases)
    except DataError as error:
        raise error.under(key) from error
    listing = listing.with_masks_alone() if masks_alone else listing
    if not listing.cases:
        raise _no_image(listing, key)
    listing.warn_of_left_out(stacklevel=4)
    return listing


def _no_image(cases: Cases, key: str) -> DataError:
    labels = [one.path for one in cases.left_out if "mask" in one.reason or "label map" in one.reason]
    if labels:
        return DataError(
            cases.root, key=key, expected="images", got=f"{len(labels)} label maps alone (first: {labels[0]})",
            remedy="Give the path of the images, or a table of cases in its place, which names the roles of files.",
        )  # fmt: skip
    files = [Path(one.path) for one in cases.left_out if not names_series(one.path)]
    reasons = f" ({cases.reasons_to_tell})" if cases.reasons_to_tell else ""
    got = f"none{reasons}" if cases.left_out else "an empty folder"
    return DataError(
        cases.root,
        key=key,
        expected="NIfTI files or other volumes, or DICOM series",
        got=f"{kinds_in_words(files)}{reasons}" if files else got,
        remedy=_remedy(cases),
    )


def _remedy(cases: Cases) -> str:
    if any("not fetched" in reason for reason in cases.reasons):
        return "Fetch the files that the links name (datalad get, git annex get, git lfs pull)."
    if any(names_series(one.path) for one in cases.left_out):
        return (
            "Volumes are series of CT, MR and PET with positions. Radiographs are pictures: `plan --kind pictures` "
            'reads them with --value_range "[0, 4095]". Convert ultrasound to pictures, other series with dcm2niix.'
        )
    return "Give the path of NIfTI files or DICOM series (dcm2niix converts other DICOM)."


def split_by_subject(
    cases: Sequence[Mapping[str, Any]], validation_share: float = 0.2, seed: int = 0, slabs: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits cases into training and validation; no ``subject`` is in both.

    A single subject is in both lists, marked ``slab="train"`` and ``slab="validation"``, for
    :class:`~monai_diffscore.data.patches.HeldOutSlabd`.

    Raises:
        ValueError: unless 0 < validation_share < 1.
        DataError: for a single subject without ``slabs``.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must lie between 0 and 1, got {validation_share}.")
    subjects: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        subjects.setdefault(case["subject"], []).append(dict(case))
    names = sorted(subjects)
    if len(names) == 1 and not slabs:
        raise DataError(
            names[0],
            expected="at least two subjects, one of them to validate on",
            got="one",
            remedy="Add data of other subjects: the training data cannot measure the error of a model.",
        )
    if len(names) == 1:
        parts = ("train", "validation")
        train, validation = ([{**case, "slab": part} for case in subjects[names[0]]] for part in parts)
        return train, validation
    random.Random(seed).shuffle(names)
    held_out = max(1, round(validation_share * len(names)))
    return (
        [case for name in names[held_out:] for case in subjects[name]],
        [case for name in names[:held_out] for case in subjects[name]],
    )


def image_loader() -> LoadImage:
    """MONAI's reader of an image file: float32 [C, *S] with its geometry.

    MONAI announces twice that an optional GPU codec for DICOM is not installed; this is quiet.
    """
    codec = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = codec.level
    codec.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodec")
            return LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)
    finally:
        codec.setLevel(level)


class LoadVolumed(MapTransform):
    """Loads volumes as float32 ``MetaTensor`` [channels, *S]; rejects data that would silently ruin a model.

    Args:
        keys: keys of the paths: files of volumes, and series or channels as :func:`list_volumes` names them. A list of
            paths on one grid becomes an image of several channels.
        spatial_dims: expected number of spatial dimensions.
        channels: expected number of channels (a fourth axis of a NIfTI file); None takes any.
        modality: "CT", "MR" or "PT", the expected modality of a DICOM series. A NIfTI file does not state its modality.
        dicom: options of :func:`~monai_diffscore.data.dicom.read_dicom_series`, such as ``{"on_gap": "resample"}``.
        slices: also load images of one axis less, and volumes of one slice; both become volumes of one slice.
        constant: also load volumes of one value: a label map may have one class.
    Raises:
        DataError: for an unreadable file, another number of dimensions or channels, NaN, infinity, or a constant; for
            an invalid DICOM series, or another modality.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int = 3,
        channels: int | None = 1,
        allow_missing_keys: bool = False,
        modality: str | None = None,
        dicom: Mapping[str, Any] | None = None,
        slices: bool = False,
        constant: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.constant = constant
        self.spatial_dims = spatial_dims
        self.slices = slices
        self.channels = channels
        self.modality = modality
        self.dicom = ReadingRules.of(dicom or {})
        self.load = image_loader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            paths = [loaded[key]] if isinstance(loaded[key], str | Path) else list(loaded[key])
            volumes = [self._read_one(str(path), str(key)) for path in paths]
            file, volume = str(paths[0]), volumes[0]
            if len(volumes) > 1:
                volume = _stacked(volumes, paths, str(key))
            if self.slices and volume.ndim == self.spatial_dims:
                volume = _one_slice(volume)
            self._check(volume, file, str(key))
            loaded[key] = volume
        return loaded

    @property
    def expected(self) -> str:
        """A description of a valid file, for messages."""
        channels = "any" if self.channels is None else self.channels
        return f"a readable {self.spatial_dims}-D volume with {channels} channel(s)"

    def _read_one(self, path: str, key: str) -> MetaTensor:
        file, channel = split_channel(locate(path))
        volume = self._read_dicom(path, key) if holds_dicom(path) else self._read(str(file), key)
        if channel is None:
            return volume
        if channel >= len(volume):
            raise DataError(
                file, key=key, expected=f"a channel {channel} (counted from 0)", got=f"{len(volume)} channels",
                remedy="Name a channel that the file has.",
            )  # fmt: skip
        meta = {**volume.meta, "filename_or_obj": path}
        return MetaTensor(volume.as_tensor()[channel : channel + 1].clone(), affine=volume.affine, meta=meta)

    def _read(self, file: str, key: str) -> MetaTensor:
        try:
            if ending(file) in NIFTI:
                check_nifti_header(file, key)
            volume: MetaTensor = _read_by_nibabel(file) if _by_nibabel(file) else self.load(file)
        except DataError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise DataError(
                file,
                key=key,
                expected=self.expected,
                got=f"{type(error).__name__}: {reason[-1] if reason else ''}",
                remedy="The file is missing, damaged or not an image: replace it or take it out of the folder.",
            ) from error
        return volume

    def _read_dicom(self, path: str, key: str) -> MetaTensor:
        try:
            volume = read_dicom_series(path, **vars(self.dicom))
        except DataError as error:
            raise error.under(key) from error
        modality = volume.meta["modality"]
        if self.modality is not None and modality != self.modality:
            raise DataError(
                path,
                key=key,
                expected=f"a series of modality {self.modality}",
                got=modality,
                remedy="Use a bundle for this modality, or take the series out of the folder.",
            )
        return volume

    def _check(self, volume: torch.Tensor, file: str, key: str) -> None:
        sizes = tuple(volume.shape)
        in_plane = sizes[1:-1] if self.slices else sizes[1:]
        if len(sizes) != self.spatial_dims + 1 or min(in_plane) < 2:
            raise DataError(
                file,
                key=key,
                expected=self.expected,
                got=f"shape {sizes[1:]} and {sizes[0]} channel(s)",
                remedy="Use a bundle for data of these dimensions, or take the file out of the folder.",
            )
        if self.channels is not None and sizes[0] != self.channels:
            raise DataError(
                file,
                key=key,
                expected=self.expected,
                got=f"{sizes[0]} channels of size {sizes[1:]}",
                remedy="Take one of them: --image ROLE, if `python -m monai_diffscore cases FOLDER` lists several, "
                f"else {file}/channel:0 in a table of cases. Or train on all: --image_channels {sizes[0]}.",
            )
        bad = int((~torch.isfinite(volume)).sum())
        if bad:
            raise DataError(
                file,
                key=key,
                expected="finite intensities",
                got=f"{bad} of {volume.numel()} voxels NaN or infinite",
                remedy="Mask or fill these voxels first; one NaN spoils every patch that holds it.",
            )
        low, high = float(volume.min()), float(volume.max())
        if low == high and not self.constant:
            raise DataError(
                file,
                key=key,
                expected="an image with contrast",
                got=f"the constant {low:g}",
                remedy="Take the file out of the folder.",
            )


def _by_nibabel(file: str) -> bool:
    """Whether MONAI's readers lack the format, take the name for the content, or take components for an axis."""
    if ending(file) in (".mgz", ".mgh"):
        return True
    return ending(file) in NIFTI and (is_misnamed(file) or is_vector(open_image(file).shape))


def _read_by_nibabel(file: str) -> MetaTensor:
    values, affine = read_channels(file)
    meta = {"filename_or_obj": file, "original_affine": affine.copy()}
    return MetaTensor(torch.from_numpy(values), affine=torch.as_tensor(affine, dtype=torch.float64), meta=meta)


def _stacked(volumes: Sequence[MetaTensor], paths: Sequence[object], key: str) -> MetaTensor:
    """Joins files on one grid as the channels of one volume."""
    first = volumes[0]
    for volume, path in zip(volumes[1:], paths[1:], strict=True):
        same = volume.shape[1:] == first.shape[1:] and np.allclose(volume.affine, first.affine, atol=1e-3)
        if not same:
            raise DataError(
                path, key=key, expected=f"the grid of {paths[0]}: {tuple(first.shape[1:])}, the same affine",
                got=f"{tuple(volume.shape[1:])}" + ("" if volume.shape[1:] != first.shape[1:] else ", another affine"),
                remedy="Register and resample the roles of --image to one grid, or take one of them.",
            )  # fmt: skip
    return MetaTensor(torch.cat([volume.as_tensor() for volume in volumes]), affine=first.affine, meta=first.meta)


def _one_slice(image: MetaTensor) -> MetaTensor:
    """A 2-D image as a volume of one slice, at the position that its file states."""
    meta = {name: value for name, value in image.meta.items() if name != "affine"}
    return MetaTensor(image.as_tensor()[..., None], affine=to_affine_nd(image.ndim, image.affine), meta=meta)


class BlankVolumed(MapTransform):
    """Requests a synthetic volume: puts an empty volume with a geometry at ``keys``.

    Args:
        keys: keys to fill; an existing value is replaced.
        shape: spatial size in voxels.
        spacing_mm: size of a voxel; the axes are RAS, and the centre of the volume is the origin of the world. None for
            arrays without world coordinates.
        channels: number of channels.
        value: intensity of all voxels, or one for each channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        shape: Sequence[int],
        spacing_mm: Sequence[float] | None = None,
        channels: int = 1,
        value: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if spacing_mm is not None and len(shape) != len(spacing_mm):
            raise ValueError(f"shape and spacing_mm need one entry for each axis, got {shape} and {spacing_mm}.")
        self.shape = tuple(shape)
        self.values = torch.as_tensor(value, dtype=torch.float32).expand(channels)
        # a slice has a position in space too: NIfTI needs 4 x 4
        self.affine = torch.eye(max(len(shape), 3) + 1, dtype=torch.float64)
        for axis, (size, step) in enumerate(zip(shape, spacing_mm or (), strict=spacing_mm is not None)):
            self.affine[axis, axis] = step
            self.affine[axis, -1] = -0.5 * step * (size - 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        filled = dict(data)
        for key in self.keys:
            filled[key] = MetaTensor(self._volume(), affine=self.affine)
        return filled

    def _volume(self) -> torch.Tensor:
        return self.values.reshape(-1, *(1 for _ in self.shape)).repeat(1, *self.shape)
