"""MONAI's datalists and the Medical Segmentation Decathlon: a JSON file that lists images and labels.

``{"training": [{"image": ..., "label": ..., "fold": 0}], "validation": [...], "test": [...]}``, paths relative to the
file. ``modality`` of the Decathlon names the channels of 4-D images: channel k of a file is ``FILE/channel:k``.
Sources: M. Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022); MONAI,
``load_decathlon_datalist``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import (
    MASK_WORDS,
    bids_label,
    ending,
    read_name,
    role_of,
    role_or_word,
    stem,
    words,
)
from monai_diffscore.data.tree import Tree
from monai_diffscore.errors import DataError

_SPLITS = {"training": "train", "train": "train", "validation": "validation", "test": "test", "testing": "test"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: for an unreadable file, or another content.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            path, expected="a JSON file", got=f"{type(error).__name__}: {error}", remedy="Correct or remove the file."
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            path, expected="a JSON object", got=type(content).__name__, remedy='Write {"training": [{"image": ...}]}.'
        )
    return content


def is_datalist(path: Path) -> bool:
    """Whether a JSON file lists images under ``training``."""
    listed = read_json(path).get("training") if path.is_file() else None
    return isinstance(listed, list) and bool(listed)


def label_names(content: Mapping[str, Any]) -> dict[int, str]:
    """The names of the classes in a ``dataset.json``: ``labels`` is value to name, or name to value as in nnU-Net.

    The regions of nnU-Net, which are several values, have no class of their own.
    """
    labels = content.get("labels")
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        if str(key).isdigit():
            names[int(key)] = str(value)
        elif isinstance(value, int):
            names[value] = str(key)
    return names


def read_datalist(tree: Tree) -> Cases:
    """The cases in ``dataset.json`` of a folder, or in a JSON file as the root.

    Raises:
        DataError: for an entry without an image, or a missing image.
    """
    path = tree.root if tree.root.is_file() else tree.root / "dataset.json"
    content, book = read_json(path), Casebook()
    modality = content.get("modality") or {}
    modality = modality if isinstance(modality, Mapping) else {"0": modality}
    channels = [role_or_word(str(modality[number])) for number in sorted(modality, key=int)]
    listed: set[Path] = set()
    for part, split in _SPLITS.items():
        for number, entry in enumerate(content.get(part) or []):
            listed |= _add_entry(book, path, f"{part}[{number}]", entry, channels, split)
    for file in tree.files:
        if file.resolve() not in listed and file != path:
            book.leave_out(file, "not listed" if ending(file) else "no image by its ending")
    for name in book.masks:
        book.name_classes(name, label_names(content))
    return book.close(tree.root, "datalist")


def _add_entry(book: Casebook, path: Path, where: str, entry: Any, channels: Sequence[str], split: str) -> set[Path]:
    parts = {"image": entry} if isinstance(entry, str | list) else dict(entry)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    facts = {"split": split}
    for key, value in parts.items():
        files = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if not files or not all(isinstance(file, str) and ending(file) for file in files):
            facts[key] = str(value)
            continue
        paths = [_existing(path, where, key, file) for file in files]
        if set(words(key)) & MASK_WORDS:
            masks |= {key if len(paths) == 1 else f"{key}{k}": file for k, file in enumerate(paths)}
        elif len(paths) > 1:
            images |= {channels[k] if k < len(channels) else f"{key}{k}": file for k, file in enumerate(paths)}
        else:
            images[key] = paths[0]
    if not images:
        raise DataError(path, expected=f"an image in {where}", got=str(entry)[:80], remedy='Write {"image": "PATH"}.')
    first = next(iter(images.values()))
    subject = str(facts.pop("subject", "")) or bids_label(first) or read_name(stem(first)).rest or stem(first)
    session = facts.pop("session", "")
    for key, file in images.items():
        if key == "image" and len(channels) > 1:
            for number, role in enumerate(channels):
                book.add_image(subject, session, role, f"{file}/channel:{number}", facts, str(number))
        else:
            role = (channels[0] if channels else role_of(stem(file))) if key == "image" else key
            book.add_image(subject, session, role or "image", str(file), facts)
    for key, file in masks.items():
        book.add_mask(subject, session, key, str(file))
    return {file.resolve() for file in (*images.values(), *masks.values())}


def _existing(path: Path, where: str, key: str, name: str) -> Path:
    file = path.parent / name
    if not file.is_file():
        raise DataError(
            path, key=key, expected=f"the file that {where} names", got=f"no {file}",
            remedy="Fetch the file, or remove the entry from the list.",
        )  # fmt: skip
    return file
