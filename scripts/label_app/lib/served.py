"""Which bundles are served, and what each can do: those with task overlays beside their configurations, and weights.

Where nobody has trained a bundle yet, the small weights that come along with some of them serve for a first look.

Run as a program (scripts/label does), it says what will be served, or why nothing can be.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

#: tasks on volumes, by the overlay that each is
RESTORATIONS = ("denoise", "inpaint", "super_resolve")
ROOT = Path(__file__).resolve().parents[3]


class NothingToServe(ValueError):
    """A bundle that cannot be served, and what to do about it."""


@dataclass(frozen=True)
class ServedBundle:
    """A folder with configurations, task overlays and weights."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The trained ones; without them the demonstration weights, if it has some."""
        trained, demo = self.folder / "models/model.pt", self.folder / "models/demo/model.pt"
        return demo if demo.is_file() and not trained.is_file() else trained

    @property
    def for_a_first_look(self) -> bool:
        """Whether its weights are the demonstration weights, of a smaller network."""
        return self.weights.parent.name == "demo"

    @property
    def title(self) -> str:
        return f"{self.metadata['name']}{' (demonstration weights)' if self.for_a_first_look else ''}"

    @property
    def of_slides(self) -> bool:
        """Whether its images are whole-slide images: then tasks take tiles, not files."""
        return not (self.folder / "configs/cases.json").is_file()

    @property
    def tasks(self) -> list[str]:
        """Names of its task overlays that an annotator has a use for."""
        return [name for name in ("anomaly", *RESTORATIONS) if (self.folder / f"configs/{name}.json").is_file()]

    @property
    def metadata(self) -> dict:
        return json.loads((self.folder / "configs/metadata.json").read_text())

    @property
    def modality(self) -> str | None:
        """Of DICOM series that it takes; None if it takes none."""
        cases = self.folder / "configs/cases.json"
        if not cases.is_file():
            return None
        return json.loads(cases.read_text())["preprocessing"]["transforms"][0].get("modality")

    def configurations(self, task: str) -> list[str]:
        """The files that ``python -m monai.bundle run`` would be given, in their order."""
        names = ["inference", *["demo"] * self.for_a_first_look, *["cases"] * (not self.of_slides), task]
        return [str(self.folder / f"configs/{name}.json") for name in names]


def training_command(folder: Path) -> str:
    """What makes the weights of a bundle."""
    return (
        f"python -m monai.bundle run training --config_file {folder}/configs/train.json --bundle_root {folder} "
        "--dataset_dir FOLDER"
    )


def find_bundles(names: str, root: Path = ROOT) -> list[ServedBundle]:
    """The bundles of a list "name,path,...", or all image bundles that have weights if it is empty.

    Raises:
        NothingToServe: for a name that is no bundle, a bundle without task overlays or weights, or if none is left.
    """
    known = sorted(file.parent.parent for file in (root / "bundles").glob("*/configs/anomaly.json"))
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        found = [ServedBundle(folder) for folder in known if ServedBundle(folder).weights.is_file()]
        if not found:
            commands = "\n  ".join(training_command(folder.relative_to(root)) for folder in known)
            raise NothingToServe(f"no image bundle has weights yet. Train one of them, for example:\n  {commands}")
        return found
    return [_check(_folder(name, root), known) for name in wanted]


def _folder(name: str, root: Path) -> Path:
    for folder in (root / "bundles" / name, Path(name)):
        if (folder / "configs/inference.json").is_file():
            return folder.resolve()
    raise NothingToServe(f"there is no bundle '{name}': expected the name of a folder in {root / 'bundles'}, or a path")


def _check(folder: Path, known: list[Path]) -> ServedBundle:
    bundle = ServedBundle(folder)
    if not bundle.tasks:
        names = ", ".join(path.name for path in known)
        raise NothingToServe(f"{bundle.name} has no task for annotators (no configs/anomaly.json); these have: {names}")
    for file in (bundle.weights, bundle.weights.with_name("data_statistics.json")):
        if not file.is_file():
            raise NothingToServe(f"{bundle.name} has no weights ({file}). Train it:\n  {training_command(folder)}")
    return bundle


if __name__ == "__main__":
    try:
        served = find_bundles(sys.argv[2], Path(sys.argv[1]))
    except NothingToServe as problem:
        sys.exit(f"label: {problem}")
    if sys.argv[3:] == ["--modalities"]:
        print(*sorted({one.modality for one in served} - {None}))
    else:
        for one in served:
            look = " for a first look (demonstration weights, models/demo/README.md)" if one.for_a_first_look else ""
            print(f"== serving {one.name}{look}: {', '.join(one.tasks)}")
