"""All checks of a bundle in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.inspection.agreement import find_disagreements
from monai_diffscore.inspection.components import find_wrong_components
from monai_diffscore.inspection.files import BundleFiles, Finding
from monai_diffscore.inspection.leakage import find_leaks
from monai_diffscore.inspection.publication import find_missing
from monai_diffscore.inspection.references import find_unknown_overrides, find_wrong_references


def inspect_bundle(folder: str | Path, overrides: Sequence[str] = (), leaks: str = "") -> list[Finding]:
    """The problems of a bundle, and of overrides that a command would apply to it.

    Args:
        folder: of the bundle.
        overrides: each an "id", an "id=value" (also with ``--``), or the path of an overlay.
        leaks: "content" or "voxels" also compares both sides of the split of its data; "" does not.
    Returns:
        One finding for each problem; unreadable files alone where there are any.
    Raises:
        DataError: if the folder holds no bundle.
    """
    files = BundleFiles.read(folder)
    if files.unreadable:
        return files.unreadable
    findings = [
        *find_missing(files),
        *find_wrong_references(files),
        *find_unknown_overrides(files, overrides),
        *find_wrong_components(files),
        *find_disagreements(files),
        *(find_leaks(files, leaks == "voxels") if leaks else []),
    ]
    return list(dict.fromkeys(findings))
