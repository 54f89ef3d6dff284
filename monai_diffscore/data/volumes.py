"""Image files: found, split by subject, loaded, and refused if a model trained on them would be wrong."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import LoadImage, MapTransform

from monai_diffscore.data.dicom import (
    ReadingRules,
    find_series,
    holds_dicom,
    read_dicom_series,
    split_path,
    volume_series,
)
from monai_diffscore.data.files import files_below
from monai_diffscore.errors import DataError

SUFFIXES = (".nii", ".nii.gz")


def list_volumes(path: str | Path, key: str = "image", left_out: Sequence[str] = ()) -> list[dict[str, str]]:
    """All NIfTI files and DICOM series below a folder (or the one that ``path`` is), sorted by path.

    Each is a case ``{key: path, "subject": name}``. The subject of a file is the last ``sub-<label>`` of its path below
    the folder, as in BIDS, else the file; that of a series its PatientID, else its folder likewise. The path of a
    series is the folder that holds all of it, with ``#SeriesInstanceUID`` if that holds another one too. Scouts, and
    series derived from others of the study, are passed over with a warning. ``left_out`` names files and folders below
    the folder that are not looked at.

    Raises:
        DataError: if the path does not exist, or holds neither; for a name in ``left_out`` that is not there.
    """
    root, _ = split_path(Path(path).expanduser())
    expected = f"NIfTI files ({', '.join(SUFFIXES)}) or DICOM series"
    if not root.exists():
        raise DataError(
            root, key=key, expected=expected, got="no such file or folder", remedy="Give an existing --dataset_dir."
        )
    files = files_below(root, left_out, key)
    inside = root.parent if root.is_file() else root
    volumes = [
        {key: str(f), "subject": subject_of(f.relative_to(inside))}
        for f in files
        if f.name.lower().endswith(SUFFIXES) and not f.name.startswith(".")
    ]
    try:
        volumes += _list_series(Path(path).expanduser(), files if left_out else [root], inside, key)
    except DataError as error:
        raise error.under(key) from error
    if not volumes:
        found = sorted({"".join(f.suffixes[-2:]) or f.name for f in files})
        raise DataError(
            root,
            key=key,
            expected=expected,
            got=f"{len(files)} files, of the types {found[:8]}" if files else "an empty folder",
            remedy="Point --dataset_dir at a folder of NIfTI files or DICOM series (dcm2niix converts other DICOM).",
        )
    return sorted(volumes, key=lambda case: case[key])


def _list_series(path: Path, places: Sequence[Path], inside: Path, key: str) -> list[dict[str, str]]:
    root, uid = split_path(path)
    found = find_series(places)
    series, others = volume_series(found)
    if uid is not None:
        series, others = [s for s in found if s.uid == uid], []
    if others:
        warnings.warn(f"{root}: passed over {'; '.join(f'series {s}' for s in others)}.", stacklevel=3)
    cases = []
    for one in series:
        files = {Path(p.file) for p in one.planes}
        place = files.pop() if len(files) == 1 else one.folder
        alone = not any(Path(p.file).is_relative_to(place) for s in found if s is not one for p in s.planes)
        subject = one.planes[0].patient or subject_of(one.folder.relative_to(inside))
        cases.append({key: str(place) if alone else f"{place}#{one.uid}", "subject": subject})
    return cases


def subject_of(path: Path) -> str:
    """The last ``sub-<label>`` of a path, as in BIDS; else all of the path."""
    labels = re.findall(r"sub-[A-Za-z0-9]+", str(path))
    return labels[-1] if labels else str(path)


def split_by_subject(
    cases: Sequence[Mapping[str, Any]], validation_share: float = 0.2, seed: int = 0, slabs: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation cases such that no ``subject`` is in both.

    With one subject alone both lists hold it, marked ``slab="train"`` and ``slab="validation"``, for
    :class:`~monai_diffscore.data.patches.HeldOutSlabd`; without ``slabs`` that is refused.

    Raises:
        ValueError: unless 0 < validation_share < 1.
        DataError: for one subject without ``slabs``.
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
            remedy="Add data: what a model is trained on cannot tell how good it is.",
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


class LoadVolumed(MapTransform):
    """Loads volumes as float32 ``MetaTensor`` [channels, *S] and refuses what would spoil a model without a word.

    Args:
        keys: keys of the paths: NIfTI files, and DICOM series as :func:`list_volumes` names them.
        spatial_dims: expected number of spatial dimensions.
        channels: expected number of channels (a fourth axis of a NIfTI file).
        modality: "CT", "MR" or "PT": what DICOM series must be. NIfTI files do not say what they are.
        dicom: options of :func:`~monai_diffscore.data.dicom.read_dicom_series`, such as ``{"on_gap": "resample"}``.
        slices: also take images of one axis less, and volumes of one slice: each becomes a volume of one slice.
    Raises:
        DataError: for a file that cannot be read, has another number of dimensions or channels, holds NaN or
            infinity, or is constant; for a DICOM series that is refused, or of another modality.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int = 3,
        channels: int = 1,
        allow_missing_keys: bool = False,
        modality: str | None = None,
        dicom: Mapping[str, Any] | None = None,
        slices: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.slices = slices
        self.channels = channels
        self.modality = modality
        self.dicom = ReadingRules.of(dicom or {})
        with warnings.catch_warnings():
            # MONAI announces here that an optional GPU codec for DICOM is not installed
            warnings.filterwarnings("ignore", message="NvImgCodec")
            self.load = LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            file = str(loaded[key])
            volume: MetaTensor = self._read_dicom(file, str(key)) if holds_dicom(file) else self._read(file, str(key))
            if self.slices and volume.ndim == self.spatial_dims:
                volume = _one_slice(volume)
            self._check(volume, file, str(key))
            loaded[key] = volume
        return loaded

    @property
    def expected(self) -> str:
        """What a file should be."""
        return f"a readable {self.spatial_dims}-D volume with {self.channels} channel(s)"

    def _read(self, file: str, key: str) -> MetaTensor:
        try:
            volume: MetaTensor = self.load(file)
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
        if sizes[0] != self.channels:
            raise DataError(
                file,
                key=key,
                expected=self.expected,
                got=f"{sizes[0]} channels of size {sizes[1:]}",
                remedy="Pick or split the channels beforehand, or set the channels of network and LoadVolumed alike.",
            )
        bad = int((~torch.isfinite(volume)).sum())
        if bad:
            raise DataError(
                file,
                key=key,
                expected="finite intensities",
                got=f"{bad} of {volume.numel()} voxels NaN or infinite",
                remedy="Mask or refill them on purpose beforehand; one NaN spoils every patch that holds it.",
            )
        low, high = float(volume.min()), float(volume.max())
        if low == high:
            raise DataError(
                file,
                key=key,
                expected="an image with contrast",
                got=f"the constant {low:g}",
                remedy="Take the file out of the folder.",
            )


def _one_slice(image: MetaTensor) -> MetaTensor:
    """A 2-D image as a volume of one slice, where its file says that it is."""
    meta = {name: value for name, value in image.meta.items() if name != "affine"}
    return MetaTensor(image.as_tensor()[..., None], affine=to_affine_nd(image.ndim, image.affine), meta=meta)


class BlankVolumed(MapTransform):
    """Puts an empty volume with a geometry at ``keys``: the request for a synthetic one.

    Args:
        keys: keys to fill; a value already there is replaced.
        shape: spatial size in voxels.
        spacing_mm: size of a voxel; the axes are RAS, and the centre of the volume is the origin of the world. None for
            arrays without a place in the world.
        channels: number of channels.
        value: intensity of all voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        shape: Sequence[int],
        spacing_mm: Sequence[float] | None = None,
        channels: int = 1,
        value: float = 0.0,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if spacing_mm is not None and len(shape) != len(spacing_mm):
            raise ValueError(f"shape and spacing_mm need one entry for each axis, got {shape} and {spacing_mm}.")
        self.shape, self.channels, self.value = tuple(shape), channels, value
        # a slice lies in space too: writers of NIfTI want 4 x 4
        self.affine = torch.eye(max(len(shape), 3) + 1, dtype=torch.float64)
        for axis, (size, step) in enumerate(zip(shape, spacing_mm or (), strict=spacing_mm is not None)):
            self.affine[axis, axis] = step
            self.affine[axis, -1] = -0.5 * step * (size - 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        filled = dict(data)
        for key in self.keys:
            filled[key] = MetaTensor(torch.full((self.channels, *self.shape), self.value), affine=self.affine)
        return filled
