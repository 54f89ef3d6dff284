"""A bundle looked over before it runs: what MONAI would take without a word, or say only hours later.

:func:`inspect_bundle` gives a list of :class:`Finding`; an empty one is what every shipped and planned bundle gives.

======================  ==========================================================================================
module                  looks for
======================  ==========================================================================================
``references``          ids that nothing reads, references to none, overrides of nothing, expressions that fail
``components``          ``_target_`` that do not exist, keywords that they do not take or miss
``agreement``           training and inference that differ: network, precision, sigma_data, range, conditions
``publication``         what MONAI, its model zoo and MONAI Label ask for: files, ids, metadata, version
======================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.inspection.agreement import find_disagreements
from monai_diffscore.inspection.components import find_wrong_components
from monai_diffscore.inspection.files import BundleFiles, Finding
from monai_diffscore.inspection.publication import find_missing
from monai_diffscore.inspection.references import find_unknown_overrides, find_wrong_references

__all__ = ["BundleFiles", "Finding", "inspect_bundle"]


def inspect_bundle(folder: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """All that is wrong with a bundle, or with what is to be overridden in it.

    Args:
        folder: of the bundle.
        overrides: what a command would override: "id", "id=value" (also with ``--``), or files of overlays.
    Raises:
        DataError: if there is no bundle in the folder.
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
    ]
    return list(dict.fromkeys(findings))
