"""The names that dcm2niix writes by default: ``FOLDER_PROTOCOL_DATE_SERIES.nii.gz`` (``%f_%p_%t_%s``) and JSON.

The subject is the folder's name if the file's begins with it, else what stands before the first word of the protocol.
The date is the session. Endings of echoes, phases and channels (``_e2``, ``_ph``) make roles of their own; ``_i00001``
is a slice of a scout; ``_Eq`` and ``_Tilt`` are resampled copies and left out.
Source: X. Li et al., The first step for neuroimaging data analysis: DICOM to NIfTI conversion, J. Neurosci. Methods
264 (2016).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import bids_label, is_volume, read_name, role_of, role_or_word, stem, variant_of
from monai_diffscore.data.tree import Tree

_NAME = re.compile(r"(?P<head>.*?)_?(?P<date>\d{8}(?:\d{6})?)_(?P<series>\d+)(?P<letter>[a-z]?)(?P<tail>(?:_.+)?)")
_COPY = re.compile(r"_(Eq|Tilt|ROI\d+|Crop)(_|$)")


def is_dcm2niix(files: Iterable[Path]) -> bool:
    """Whether at least half of the volumes are named as dcm2niix does."""
    names = [stem(file) for file in files if is_volume(file)]
    return bool(names) and 2 * sum(_NAME.fullmatch(name) is not None for name in names) >= len(names)


def read_dcm2niix(tree: Tree) -> Cases:
    """The cases of a folder of conversions."""
    book = Casebook()
    for file in tree.files:
        name = stem(file)
        match = _NAME.fullmatch(name)
        if not is_volume(file):
            if file.suffix.lower() not in (".json", ".bval", ".bvec"):
                book.leave_out(file, "no image by its ending")
        elif match is None:
            book.leave_out(file, "not named as dcm2niix does")
        elif read_name(name).is_scout or re.search(r"_i\d{5}$", name):
            book.leave_out(file, "scout by its name")
        elif _COPY.search(match["tail"]):
            book.leave_out(file, "resampled copy by its name")
        else:
            subject, protocol = _split(file, tree.top, match["head"])
            role = role_or_word(protocol) + match["tail"].lower()
            if read_name(name).is_mask:
                book.add_mask(subject, match["date"], role, str(file))
            else:
                book.add_image(
                    subject, match["date"], role, str(file), {"series": match["series"]}, variant_of(protocol)
                )
    return book.close(tree.root, "dcm2niix")


def _split(file: Path, top: Path, head: str) -> tuple[str, str]:
    """The subject, and the protocol, which follows it."""
    folder = file.parent.name
    if label := bids_label(file.relative_to(top)):
        return label, head.replace(label, "").strip("_-") or head
    if file.parent != top and head.startswith(folder):
        return folder, head[len(folder) :].strip("_-") or head
    parts = head.split("_")
    place = next((number for number, part in enumerate(parts) if number and role_of(part)), 1)
    if len(parts) == 1:
        return (folder if file.parent != top else head), head
    return "_".join(parts[:place]), "_".join(parts[place:])
