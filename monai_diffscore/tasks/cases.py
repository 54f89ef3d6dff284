"""Results of cases: a table of numbers, maps on the grid of the source, and files."""

from __future__ import annotations

import copy
import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform
from torch import Tensor

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.cases.names import is_volume, read_name, stem
from monai_diffscore.data.dicom import holds_dicom, write_dicom_seg, write_dicom_series
from monai_diffscore.data.paths import split_channel, split_series
from monai_diffscore.transforms.intensity import IntensityTransformd


class CaseTable:
    """One row of numbers for each case. Each new row rewrites ``folder/<name>``.

    Args:
        folder: folder of the table.
        name: name of the file.
    """

    def __init__(self, folder: str | Path, name: str = "cases.csv") -> None:
        self.path = Path(folder) / name
        self.rows: list[dict[str, Any]] = []

    def case_name(self, image: MetaTensor) -> str:
        """The name of the image's file or series.

        The name of the folder precedes a name that states only the contrast (``T1``). A number follows a name that the
        table already has.
        """
        path = str(getattr(image, "meta", {}).get("filename_or_obj", "case"))
        source = split_channel(split_series(path)[0])[0]
        name = stem(source) if is_volume(source) else source.name
        if is_volume(source) and not read_name(name).rest and source.parent.name:
            name = f"{source.parent.name}_{name}"
        names = {row["case"] for row in self.rows}
        return name if name not in names else f"{name}_{len(self.rows)}"

    def identify(self, image: MetaTensor) -> dict[str, str]:
        """The first columns of a row: ``case``, as :meth:`case_name` gives it, and ``file``, the path of the image."""
        return {"case": self.case_name(image), "file": str(getattr(image, "meta", {}).get("filename_or_obj", ""))}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row with the columns of the first."""
        self.rows.append(dict(row))
        write_rows(self.path, self.rows)


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal columns as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def intensity_range(image: MetaTensor) -> tuple[float, float]:
    """The raw intensities of -1 and 1, from the record of the last intensity transform; (-1, 1) without a record."""
    for operation in reversed(getattr(image, "applied_operations", [])):
        if isinstance(operation, Mapping) and "low" in operation.get("extra_info", {}):
            return float(operation["extra_info"]["low"]), float(operation["extra_info"]["high"])
    return -1.0, 1.0


def on_source_grid(
    volume: Tensor, image: MetaTensor, preprocessing: Compose | None, outside: float = 0.0
) -> MetaTensor:
    """A volume [C, *S] from the grid of the preprocessed ``image`` on the grid of its file.

    It inverts turns, flips, resampling (linear), crops and padding in reverse order. Intensities stay.

    Args:
        volume: values on the grid of the image.
        image: the preprocessed image, with the record of its transforms.
        preprocessing: these transforms; None leaves the volume on the grid of the image.
        outside: value of voxels outside of a crop.
    """
    steps = [] if preprocessing is None else preprocessing.flatten().transforms
    intensity = {type(step.transform).__name__ for step in steps if isinstance(step, IntensityTransformd)}
    operations = [op for op in image.applied_operations if _name(op) not in intensity]
    moved = MetaTensor(
        volume - outside,
        affine=image.affine.clone(),
        meta=copy.deepcopy({key: value for key, value in image.meta.items() if key != "affine"}),
        applied_operations=copy.deepcopy(operations) if preprocessing is not None else [],
    )
    if preprocessing is None:
        return moved + outside  # type: ignore[return-value]
    spatial = [
        transform
        for transform in steps
        if isinstance(transform, InvertibleTransform) and not isinstance(transform, IntensityTransformd)
    ]
    return Compose(spatial).inverse({"image": moved})["image"] + outside


def _name(operation: Any) -> str:
    return str(operation.get("class", "")) if isinstance(operation, Mapping) else ""


class WriteNifti:
    """Writes volumes as ``folder/<name>.nii.gz``: images and maps as float32, label maps as uint8."""

    def __call__(self, volume: MetaTensor, folder: Path, name: str, kind: str = "image") -> None:
        """Writes [1, *S] with its affine; ``kind`` is "image" (in the units of the source), "map" or "labels"."""
        array = volume.as_tensor().detach().cpu().numpy()[0].astype(np.uint8 if kind == "labels" else np.float32)
        affine = np.asarray(volume.affine, dtype=np.float64)
        content = nib.Nifti1Image(array, affine if affine.shape == (4, 4) else np.eye(4)).to_bytes()
        with whole_file(folder / f"{name}.nii.gz") as file:
            file.write(gzip.compress(content))


class WriteDicom(WriteNifti):
    """Writes each image as a DICOM series marked synthetic in a folder of its own, and label maps as DICOM SEG.

    A SEG refers to a DICOM source and cannot be empty, so labels of NIfTI cases and empty labels are NIfTI files. Maps
    are NIfTI files, too, because their values are neither HU nor an MR signal.

    Args:
        modality: "CT" or "MR".
        model_hash: hash that identifies the model.
        labels: names of the labels 1, 2, ...
    """

    def __init__(self, modality: str, model_hash: str, labels: Sequence[str] = ("anomaly",)) -> None:
        self.modality, self.model_hash = modality, model_hash
        self.labels = dict(enumerate(labels, start=1))

    def __call__(self, volume: MetaTensor, folder: Path, name: str, kind: str = "image") -> None:
        source = str(volume.meta.get("filename_or_obj", ""))
        if kind == "image":
            write_dicom_series(
                volume, folder / name, modality=self.modality, model_hash=self.model_hash, description=name
            )
        elif kind == "labels" and source and holds_dicom(source) and bool(volume.any()):
            write_dicom_seg(
                volume, folder / f"{name}.dcm", source=source, names=self.labels, model_hash=self.model_hash
            )
        else:
            super().__call__(volume, folder, name, kind)
