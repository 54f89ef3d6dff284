"""The files of a training by side and role, for the model card that its record keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.intake import intake_lines

_SHOWN = 20


def used_files(
    training: Any, held_out: Any, listing: Cases | None = None, image: str = "", given: Sequence[str] = ()
) -> dict[str, Any]:
    """The layout of a training's data, and its files by side and role.

    Args:
        training: cases trained on, with the path or paths ``image``, and perhaps ``given``; rows of other kinds have no
            files.
        held_out: cases held out.
        listing: the cases of volumes, which name the role of each file.
        image: the role of files that the listing does not name, such as a file of all channels.
        given: roles of the paths in ``given``.
    Returns:
        ``layout``, ``trained on`` and ``held out``; the last two have the paths of each role.
    """
    roles: dict[str, str] = {}
    for case in listing or ():
        roles |= {path: role for role, path in case.images.items()}
    sides = {"trained on": training, "held out": held_out}
    files = {side: _by_role(cases, roles, image or "image", given) for side, cases in sides.items()}
    return {"layout": "" if listing is None else listing.layout, **files}


def _by_role(cases: Any, roles: Mapping[str, str], image: str, given: Sequence[str]) -> dict[str, list[str]]:
    files: dict[str, dict[str, None]] = {}
    for case in cases if isinstance(cases, list) else ():
        if not isinstance(case, Mapping) or "image" not in case:
            continue
        paths = [case["image"]] if isinstance(case["image"], str) else case["image"]
        named = [(roles.get(path, image), path) for path in paths]
        named += [(f"{role} (given)", path) for role, path in zip(given, case.get("given", ()), strict=False) if path]
        for role, path in named:
            files.setdefault(role, {})[path] = None
    return {role: list(paths) for role, paths in files.items()}


def card_of_training(card: str | Path, intake: Mapping[str, Any], source: object, files: Mapping[str, Any]) -> str:
    """The model card of a bundle with a section on the files of one training.

    Args:
        card: the bundle's card; a missing one adds no text.
        intake: from :func:`~monai_diffscore.data.count_intake`.
        source: of the cases.
        files: from :func:`used_files`.
    """
    path = Path(card)
    front = path.read_text().rstrip("\n") + "\n\n" if path.is_file() else ""
    lines = [f"- {line}" for line in intake_lines(intake, source)]
    layout = [f"- layout: {files['layout']}"] if files["layout"] else []
    top = Path(str(source)).expanduser()
    rows = [
        f"| {side} | {role} | {len(paths)} | {_names(paths, top if top.is_dir() else top.parent)} |"
        for side in ("trained on", "held out")
        for role, paths in files[side].items()
    ]
    table = ["", "| side | role | files | which |", "|---|---|---|---|", *rows] if rows else []
    return front + "\n".join(["## Files of this training", "", *lines, *layout, *table]) + "\n"


def _names(paths: Sequence[str], top: Path) -> str:
    names = [str(Path(path).relative_to(top)) if top in Path(path).parents else path for path in paths]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`".replace("|", "\\|") for name in names[:_SHOWN]) + more
