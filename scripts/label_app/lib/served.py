"""The served bundles and their tasks: bundles with task overlays and weights.

The small demonstration weights of some bundles serve for a first look before a training.

scripts/label runs this module as a program. It then prints the served bundles, or the reason for which there are none.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

#: tasks on volumes, by the overlay that each is
RESTORATIONS = ("denoise", "inpaint", "super_resolve")
#: the task of a bundle whose cases.json is no restoration
TRANSLATE = "translate"
ROOT = Path(__file__).resolve().parents[3]


class NothingToServe(ValueError):
    """A bundle that cannot be served, with the remedy."""


@dataclass(frozen=True)
class ServedBundle:
    """A folder with configurations, task overlays and weights."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The trained weights; without them the demonstration weights, if the bundle has some."""
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
        """Whether its images are whole-slide images. Tasks then take tiles, not files."""
        return not (self.folder / "configs/cases.json").is_file()

    @property
    def translates(self) -> bool:
        """Whether its one task is to draw an image from the others of a case."""
        cases = self.folder / "configs/cases.json"
        return cases.is_file() and json.loads(cases.read_text()).get("task") == TRANSLATE

    @property
    def tasks(self) -> list[str]:
        """Names of its tasks for annotators; none of a bundle that shows annotators nothing."""
        if self.translates:
            return [TRANSLATE]
        if "displayable_configs" not in json.loads((self.folder / "configs/inference.json").read_text()):
            return []
        return [name for name in ("anomaly", *RESTORATIONS) if (self.folder / f"configs/{name}.json").is_file()]

    @property
    def metadata(self) -> dict:
        return json.loads((self.folder / "configs/metadata.json").read_text())

    @property
    def modality(self) -> str | None:
        """Modality of its DICOM series; None if it takes no DICOM."""
        return json.loads((self.folder / "configs/inference.json").read_text()).get("modality")

    def configurations(self, task: str) -> list[str]:
        """The configuration files of ``python -m monai.bundle run``, in order."""
        names = ["inference", *["demo"] * self.for_a_first_look, *["cases"] * (not self.of_slides)]
        names += [] if task == TRANSLATE else [task]
        return [str(self.folder / f"configs/{name}.json") for name in names]


def training_command(folder: Path) -> str:
    """The command that trains a bundle."""
    return (
        f"python -m monai.bundle run training --config_file {folder}/configs/train.json --bundle_root {folder} "
        "--dataset_dir FOLDER"
    )


def find_bundles(names: str, root: Path = ROOT) -> list[ServedBundle]:
    """The bundles of a list "name,path,..."; all image bundles with weights for an empty list.

    Raises:
        NothingToServe: for an unknown name, for a bundle without task overlays or weights, or if there is no bundle.
    """
    with_tasks = sorted(file.parent.parent for file in (root / "bundles").glob("*/configs/inference.json"))
    folders = [folder for folder in with_tasks if ServedBundle(folder).tasks]
    requested = [name.strip() for name in names.split(",") if name.strip()]
    if not requested:
        bundles = [ServedBundle(folder) for folder in folders if ServedBundle(folder).weights.is_file()]
        if not bundles:
            commands = "\n  ".join(training_command(folder.relative_to(root)) for folder in folders)
            raise NothingToServe(f"no image bundle has weights yet. Train one of them, for example:\n  {commands}")
        return bundles
    return [_check(_folder(name, root), folders) for name in requested]


def _folder(name: str, root: Path) -> Path:
    for folder in (root / "bundles" / name, Path(name)):
        if (folder / "configs/inference.json").is_file():
            return folder.resolve()
    raise NothingToServe(f"there is no bundle '{name}': expected the name of a folder in {root / 'bundles'}, or a path")


def _check(folder: Path, folders: list[Path]) -> ServedBundle:
    bundle = ServedBundle(folder)
    if not bundle.tasks:
        names = ", ".join(path.name for path in folders)
        needs = "configs/anomaly.json, and displayable_configs in configs/inference.json"
        raise NothingToServe(f"{bundle.name} has no task for annotators ({needs}); these have: {names}")
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
        print(*sorted({bundle.modality for bundle in served} - {None}))
    else:
        for bundle in served:
            look = " for a first look (demonstration weights, models/demo/README.md)" if bundle.for_a_first_look else ""
            print(f"== serving {bundle.name}{look}: {', '.join(bundle.tasks)}")
