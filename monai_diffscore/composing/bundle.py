"""Bundles as folders of configurations, licence and logging: written atomically, and compared with existing folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.composing.composition import Config, compose, declared
from monai_diffscore.composing.formatting import to_json

_HERE = Path(__file__).parent
#: files that all bundles share, by their place in the folder
_FILES = {"LICENSE": _HERE / "LICENSE", "configs/logging.conf": _HERE / "logging.conf"}


def bundle_texts(configs: Mapping[str, Config]) -> dict[str, str]:
    """The text of each file of a bundle, by its place in the folder.

    Args:
        configs: by file name without ``.json``, the result of :func:`~monai_diffscore.composing.compose`.
    """
    texts = {f"configs/{name}.json": to_json(config) for name, config in configs.items()}
    return {**texts, **{place: file.read_text() for place, file in _FILES.items()}}


def write_bundle_files(configs: Mapping[str, Config], folder: Path) -> None:
    """Writes the files of a bundle into a folder, and deletes configurations that it did not write. Other files stay.

    Args:
        configs: as for :func:`bundle_texts`.
        folder: of the bundle.
    """
    texts = bundle_texts(configs)
    for place, text in texts.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / place) as file:
            file.write(text.encode())
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models/.gitkeep").touch()
    for stray in _stray(folder, texts):
        stray.unlink()


def differences(folder: Path, name: str) -> list[str]:
    """The places in the folder of a shipped bundle where it is not what its parts give; empty if all is."""
    texts = bundle_texts(compose(name))
    changed = [place for place, text in texts.items() if not _holds(folder / place, text)]
    return [*changed, *(str(file.relative_to(folder)) for file in _stray(folder, texts))]


def write_shipped(bundles: Path) -> None:
    """Writes all shipped bundles, each into the folder of its name.

    Args:
        bundles: folder of the bundles.
    """
    for name in declared():
        write_bundle_files(compose(name), bundles / name)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _stray(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    return [file for file in sorted((folder / "configs").glob("*.json")) if f"configs/{file.name}" not in texts]
