"""Results of cases: a table of numbers, maps on the grid of the source, and files."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, InvertibleTransform
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.credentials import conceal
from monai_diffscore.data.dicom import holds_dicom, write_dicom_seg, write_dicom_series
from monai_diffscore.data.intake import report_intake
from monai_diffscore.errors import DataError, explain
from monai_diffscore.tasks.case_names import case_names, free_name, own_name
from monai_diffscore.transforms.intensity import IntensityTransformd

logger = logging.getLogger(__name__)
#: column of the table with the error of a case
ERROR = "error"


class CaseTable:
    """One row of numbers for each case. Each new row rewrites ``folder/<name>``.

    Args:
        folder: folder of the table.
        name: name of the file.
        stop_on_error: the first case that fails ends all; else it has a row with its error, and the others go on.
    """

    def __init__(self, folder: str | Path, name: str = "cases.csv", stop_on_error: bool = False) -> None:
        self.path = Path(folder) / name
        self.stop_on_error = stop_on_error
        self.rows: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}

    def case_name(self, image: MetaTensor) -> str:
        """The name of the image's file or series in ``names``.

        It is its own name for an image of no such case; a number follows a name that the table already has.
        """
        return self._name_of(str(getattr(image, "meta", {}).get("filename_or_obj", "case")))

    def _name_of(self, path: str) -> str:
        if path in self.names:
            return self.names[path]
        return free_name(own_name(path), {*self.names.values(), *(row["case"] for row in self.rows)})

    def identify(self, image: MetaTensor) -> dict[str, str]:
        """The first columns of a row: ``case``, as :meth:`case_name` gives it, and ``file``, the path of the image."""
        return {"case": self.case_name(image), "file": str(getattr(image, "meta", {}).get("filename_or_obj", ""))}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self.rows.append(dict(row))
        write_rows(self.path, self.rows)

    def fail(self, source: str | Path, error: Exception) -> None:
        """Adds the row of a case that has no result: its name and the error in one line.

        Raises:
            Exception: the error itself, if the first one is to stop all.
        """
        if self.stop_on_error:
            raise error
        row = {"case": self._name_of(str(source)), "file": str(source), ERROR: conceal(explain(error))}
        logger.error(f"{row['case']} is left out, the other cases go on: {row[ERROR]}")
        self.add(row)

    def results(self) -> list[dict[str, Any]]:
        """The rows of cases that did not fail."""
        return [row for row in self.rows if ERROR not in row]

    def refuse_failures(self) -> None:
        """Says which cases failed.

        Raises:
            DataError: if any did.
        """
        failed = [row for row in self.rows if ERROR in row]
        if failed:
            names = ", ".join(row["case"] for row in failed[:5]) + (", ..." if len(failed) > 5 else "")
            raise DataError(
                self.path, key=ERROR, expected=f"results of {len(self.rows)} cases",
                got=f"{len(self.rows) - len(failed)}; without: {names} ({failed[0][ERROR]})",
                remedy="Repair or remove what failed; --stop_on_error True stops at the first.",
            )  # fmt: skip


class Cases(IterableDataset[Any]):
    """Preprocessed cases, one after the other. After a case that cannot be read it goes on to the next.

    Args:
        data: cases before preprocessing, with the key "image".
        transform: the preprocessing.
        table: takes the error of a case.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], table: CaseTable) -> None:
        self.data, self.transform, self.table = data, transform, table
        table.names = case_names(data)

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise ValueError("Cases are read in the process that keeps their table: give the loader num_workers=0.")
        for case in self.data:
            try:
                preprocessed = self.transform(case)
            except Exception as error:
                self.table.fail(case["image"], error)
                continue
            yield preprocessed


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, which goes on after a bad case, and ends with an error that names all bad cases.

    Args:
        table: of the cases; takes the error of a case.
        intake: the counts of the cases, as :func:`~monai_diffscore.data.count_intake` gives them; None prints none.
        source: of the cases, named with the counts.
        options: of MONAI's evaluator.
    """

    def __init__(
        self, table: CaseTable, intake: Mapping[str, Any] | None = None, source: object = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.table, self.intake, self.source = table, intake, source

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Prints the counts, then works on all cases.

        Raises:
            DataError: at the end, if any failed.
        """
        if self.intake is not None:
            report_intake(self.intake, self.source)
        super().run(global_epoch)
        self.table.refuse_failures()

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            names = getattr(batchdata.get("image"), "meta", {}).get("filename_or_obj", "case")
            for name in [names] if isinstance(names, str) else names:
                self.table.fail(name, error)
            return {}


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, whole or not at all; a cell that a row does not have is empty, errors stand last."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=sorted(names, key=lambda name: name == ERROR))
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
            file.write(gzip.compress(content, 1))  # the level of nibabel


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
