"""Reads names of files: the format, the role, the subject, and whether the file is a mask.

The words of a name are its runs of letters and digits. A word of the table below is a contrast or modality, and gives
the role; the name without these words is the subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: endings of volumes, the longest first, in lower case
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr", ".img")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_WORDS_OF_ROLE = {
    "t1": "t1 t1w t1n mprage mp2rage spgr t1weighted",
    "t1ce": "t1ce t1c t1gd t1post t1wce t1km",
    "t2": "t2 t2w t2weighted",
    "flair": "flair t2f t2flair",
    "pd": "pd pdw",
    "t2star": "t2star t2starw",
    "t1map": "t1map",
    "t2map": "t2map",
    "dwi": "dwi dti diff",
    "adc": "adc",
    "fa": "fa",
    "swi": "swi",
    "bold": "bold fmri",
    "asl": "asl",
    "cbf": "cbf",
    "mra": "mra tof angio",
    "ct": "ct cbct",
    "cta": "cta",
    "pt": "pet pt",
    "suv": "suv suvr",
    "spect": "spect",
    "us": "us ultrasound",
}
ROLES = {word: role for role, words in _WORDS_OF_ROLE.items() for word in words.split()}
_MASKS = """mask masks seg segs segmentation segmentations label labels labelmap labelmaps labelstr labelsts
    labelsva dseg probseg gt groundtruth truth anno annotation annotations roi rois aseg aparc parc parcellation
    brainmask contour contours lesionmask prob probs probability probmap pve bbox boundingbox heatmap gtv ctv ptv"""
MASK_WORDS = set(_MASKS.split())
_SCOUT_WORDS = {"localizer", "localiser", "scout", "topogram", "survey", "surview", "tripilot"}
_MAP_WORDS = {"map", "maps", "mapping"}
_WEIGHTED = {"t1", "t2", "t2star", "pd"}
_AFTER_CONTRAST = {"ce", "gd", "gad", "gado", "post", "postcontrast", "contrast"}
#: names of folders of a part of a data set, which is no subject
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing", "holdout"}
#: names of folders of images in general
PLAIN_FOLDERS = {"images", "image", "imgs", "img", "nifti", "nii", "volumes", "scans", "raw", "anat", "mri", "data"}


@dataclass(frozen=True)
class Name:
    """The parts of a file's name.

    Args:
        rest: the name without the words of roles and masks: the subject, perhaps with more.
        role: of an image; "" without a word for it.
        contrast: the words of the role, with hyphens: two names of one role may differ in them.
        is_mask, is_scout: whether a word marks a mask or a scout.
    """

    rest: str
    role: str
    contrast: str
    is_mask: bool
    is_scout: bool


def ending(file: str | Path) -> str:
    """The ending of a volume's or picture's name in lower case, "" for any other."""
    name = Path(file).name.lower()
    return next((suffix for suffix in VOLUMES + PICTURES if name.endswith(suffix)), "")


def stem(file: str | Path) -> str:
    """The name without folder and ending."""
    name = Path(file).name
    return name[: len(name) - len(ending(file))] if ending(file) else Path(file).stem


def is_volume(file: str | Path) -> bool:
    """Whether the name has the ending of a volume."""
    return ending(file) in VOLUMES


def words(text: str) -> list[str]:
    """The words of a name in lower case."""
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def is_mask_word(word: str) -> bool:
    """Whether a word in lower case marks a mask: one of the table, or its end (``lungmask``)."""
    return word in MASK_WORDS or word.endswith(("mask", "masks", "segmentation", "labelmap"))


def role_of(text: str) -> str:
    """The role in the words of a text; "" without one. A map of T1 (``T1_map``) is no T1-weighted image."""
    present = words(text)
    roles = [ROLES[word] for word in present if word in ROLES]
    if "flair" in roles:
        return "flair"
    if "t1" in roles and _AFTER_CONTRAST & set(present):
        return "t1ce"
    role = roles[-1] if roles else ""
    return f"{role}map" if role in _WEIGHTED and _MAP_WORDS & set(present) else role


def variant_of(text: str) -> str:
    """The words of a text with hyphens, without its role."""
    return "-".join(word for word in words(text) if word != role_of(text))


def role_of_folder(inside: Path) -> str:
    """The role of the innermost folder of a relative path whose name has words of contrasts alone (``T1``, ``CT``)."""
    for part in reversed(inside.parts[:-1]):
        if is_role_folder(part):
            return role_of(part) or "mr"
    return ""


def is_role_folder(name: str) -> bool:
    """Whether the name of a folder has words of contrasts and modalities alone."""
    present = words(name)
    others = {"mr", "weighted", *_AFTER_CONTRAST, *_MAP_WORDS}
    return bool(role_of(name) or present == ["mr"]) and all(word in ROLES or word in others for word in present)


def role_or_word(text: str) -> str:
    """The role in a text, else the text as one word in lower case."""
    return role_of(text) or "-".join(words(text)) or "image"


def read_name(text: str) -> Name:
    """The parts of a name without its ending."""
    role = role_of(text)
    present = set(words(text))
    contrasts = {word for word in present if word in ROLES}
    own = contrasts | {word for word in present if is_mask_word(word)}
    if role == "t1ce":
        own |= _AFTER_CONTRAST & present
    if role.endswith("map"):
        own |= _MAP_WORDS & present
    parts = re.split(r"([^A-Za-z0-9]+)", text)
    rest = ""
    for number in range(0, len(parts), 2):
        word, gap = parts[number], parts[number - 1] if number else ""
        if word and word.lower() not in own:
            rest += (gap if rest else "") + word
    contrast = "-".join(word for word in words(text) if word in contrasts)
    return Name(rest, role, contrast, any(map(is_mask_word, present)), bool(present & _SCOUT_WORDS))


def in_mask_folder(path: Path) -> bool:
    """Whether a folder of a relative path has a word for masks, also one in CamelCase (``ManualMask``)."""
    return any(is_mask_folder(part) for part in path.parts[:-1])


def is_mask_folder(name: str) -> bool:
    """Whether the name of a folder has a word for masks."""
    return any(map(is_mask_word, words(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))))


def is_neutral_folder(name: str) -> bool:
    """Whether a folder names no subject and no session: one of images, masks, contrasts, or a part of a data set."""
    plain = name.lower() in PLAIN_FOLDERS | SPLIT_FOLDERS
    return plain or is_mask_folder(name) or is_role_folder(name)


def paired_masks(files: Iterable[Path], top: Path) -> list[Path]:
    """The files with a word for masks and the name of an image beside them: ``masks/a.png``, ``a_mask.png``.

    The name of the image is required, because the word may describe a picture (the class folder ``with_mask``).
    """
    listed = list(files)
    names = {file: read_name(stem(file)) for file in listed}
    masks = [file for file in listed if names[file].is_mask or in_mask_folder(file.relative_to(top))]
    called = set(masks)
    images = {names[file].rest for file in listed if file not in called}
    return [file for file in masks if names[file].rest in images]


def bids_label(path: str | Path) -> str:
    """The last ``sub-<label>`` of a path, as in BIDS, also with ``SUB-``; "" without one."""
    labels = re.findall(r"sub-([A-Za-z0-9]+)", str(path), re.IGNORECASE)
    return f"sub-{labels[-1]}" if labels else ""


def subject_of(path: Path) -> str:
    """The last ``sub-<label>`` of a path, as in BIDS; else the whole path."""
    return bids_label(path) or str(path)


def is_numbered(names: Iterable[str]) -> bool:
    """Whether all names contain a number, as those of patients do."""
    listed = list(names)
    return bool(listed) and all(re.search(r"\d", name) for name in listed)
