"""Drawn images with label maps, as the raw data set of nnU-Net.

The folder has ``imagesTr/sample_<seed>_0000.nii.gz``, ``labelsTr/sample_<seed>.nii.gz`` and ``dataset.json`` with the
channel, the classes and the number of cases. nnU-Net trains on it, and ``report --segmentation`` takes it.
Source: F. Isensee et al., nnU-Net, Nature Methods 18 (2021), documentation of the dataset format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.label_maps import Classes
from monai_diffscore.data.labelled_images import class_numbers
from monai_diffscore.errors import DataError
from monai_diffscore.tasks.cases import WriteNifti


class SaveLabelledImage:
    """Writes a drawn image and its label map as a case of nnU-Net; the last step of a postprocessing.

    ``dataset.json`` counts the cases of the folder after each case.

    Args:
        folder: of the data set.
        role: of the image: the name of its channel.
        classes: of the label map, under the name of its mask, with the values 0, 1, 2, ...
        image_key, label_key: keys of the image and of the label map.
        name_key: key of the number of a case.
    Raises:
        DataError: in the call, for a folder with a data set of another channel or other classes.
    """

    def __init__(
        self,
        folder: str | Path,
        role: str,
        classes: Mapping[str, Classes],
        image_key: str = "pred",
        label_key: str = "label",
        name_key: str = "seed",
    ) -> None:
        self.folder = Path(folder)
        (of_mask,) = classes.values()
        self.content = {"channel_names": {"0": role}, "labels": class_numbers(of_mask), "file_ending": ".nii.gz"}
        self.image_key, self.label_key, self.name_key = image_key, label_key, name_key
        self.write = WriteNifti()

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        self._refuse_another()
        image, label = (convert_to_tensor(item[key], track_meta=False) for key in (self.image_key, self.label_key))
        affine, name = item[self.image_key].affine, f"sample_{int(item[self.name_key]):04d}"
        self.write(MetaTensor(label, affine=affine), self.folder / "labelsTr", name, "labels")
        self.write(MetaTensor(image, affine=affine), self.folder / "imagesTr", f"{name}_0000")
        number = len(list((self.folder / "imagesTr").glob("*_0000.nii.gz")))
        write_json(self.folder / "dataset.json", {**self.content, "numTraining": number})
        return item

    def _refuse_another(self) -> None:
        file = self.folder / "dataset.json"
        present = json.loads(file.read_text()) if file.is_file() else self.content
        for key, value in self.content.items():
            if present.get(key) != value:
                raise DataError(
                    file, key=key, expected=f"{value}, those of the model", got=f"{present.get(key)}",
                    remedy="Name another --output_dir.",
                )  # fmt: skip
