"""nnU-Net's raw data: ``imagesTr/CASE_0000.nii.gz``, a number for each channel, and ``labelsTr/CASE.nii.gz``.

``dataset.json`` names the channels (``channel_names``, formerly ``modality``) and the classes (``labels``); without it
the number is the role.
The images of ``imagesTs`` are cases whose fact ``split`` is "test".
Source: F. Isensee et al., nnU-Net, Nature Methods 18 (2021), documentation of the dataset format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.datalist import label_names, read_json
from monai_diffscore.data.cases.names import bids_label, ending, role_or_word, stem
from monai_diffscore.data.tree import Tree

_FOLDERS = {"imagesTr": "train", "imagesTs": "test", "imagesVal": "validation"}
_LABELS = {"labelsTr", "labelsTs", "labelsVal"}


def is_nnunet(folder: Path, files: set[Path]) -> bool:
    """Whether the names of all images in ``imagesTr`` end in the number of a channel."""
    images = [file for file in files if file.parent == folder / "imagesTr" and ending(file)]
    return bool(images) and all(re.search(r"_\d{4}$", stem(file)) for file in images)


def read_nnunet(tree: Tree) -> Cases:
    """The cases of one data set; the subject is ``sub-<label>`` in the name of the case, else the name."""
    book = Casebook()
    file = tree.top / "dataset.json"
    content = read_json(file) if file.is_file() else {}
    channels = _channel_names(content)
    book.name_classes("label", label_names(content))
    if not channels:
        book.note("no dataset.json names the channels: the role is the number of the channel")
    for file in tree.files:
        folder = file.parent.name
        if not ending(file):
            if file.name != "dataset.json":
                book.leave_out(file, "no image by its ending")
        elif folder in _LABELS:
            name = stem(file)
            book.add_mask(bids_label(name) or name, "", "label", str(file))
        elif folder in _FOLDERS and (match := re.fullmatch(r"(.+)_(\d{4})", stem(file))):
            name, number = match.groups()
            subject = bids_label(name) or name
            book.add_image(
                subject, "", channels.get(int(number), number), str(file), {"split": _FOLDERS[folder]}, number
            )
        else:
            book.leave_out(file, "outside of imagesTr, imagesTs and labelsTr, or without a channel's number")
    return book.close(tree.root, "nnunet")


def _channel_names(content: Mapping[str, Any]) -> dict[int, str]:
    names = content.get("channel_names") or content.get("modality") or {}
    return {int(number): role_or_word(str(name)) for number, name in names.items()}
