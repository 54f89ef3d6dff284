"""The files of a bundle, read once, and the findings about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffscore.configuration import references_in
from monai_diffscore.errors import DataError

Config = dict[str, Any]
#: configurations that run alone; all others are overlays on one of them
BASES = ("train", "inference")


@dataclass(frozen=True)
class Finding:
    """One problem: its place, the expected value, the present value and the remedy."""

    where: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.remedy}"


@dataclass(frozen=True)
class BundleFiles:
    """A bundle's folder, its configurations by name, its metadata, and one finding for each unreadable file."""

    folder: Path
    configs: dict[str, Config]
    metadata: Config
    unreadable: list[Finding]

    @classmethod
    def read(cls, folder: str | Path) -> BundleFiles:
        """Reads a bundle.

        Raises:
            DataError: if the folder holds no configuration.
        """
        folder = Path(folder)
        paths = sorted((folder / "configs").glob("*.json"))
        if not paths:
            raise DataError(
                folder, expected="a bundle, with configs/*.json", got="no such file",
                remedy="Give the folder of a bundle, such as bundles/mri_unet3d.",
            )  # fmt: skip
        configs: dict[str, Config] = {}
        findings = []
        for file in paths:
            try:
                configs[file.stem] = json.loads(file.read_text(), object_pairs_hook=_refuse_twice)
            except (ValueError, OSError) as error:
                findings.append(
                    Finding(f"configs/{file.name}", "JSON with each key once", str(error), "Correct the file.")
                )
        return cls(folder, configs, configs.pop("metadata", {}), findings)

    @property
    def bases(self) -> dict[str, Config]:
        """The configurations that run alone."""
        return {name: config for name, config in self.configs.items() if name in BASES}

    @property
    def overlays(self) -> dict[str, Config]:
        """The configurations that change another one."""
        return {name: config for name, config in self.configs.items() if name not in BASES}


def _refuse_twice(pairs: list[tuple[str, Any]]) -> Config:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"the key {twice[0]!r} twice in one object: the last would win")
    return dict(pairs)


def items(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a configuration with their ids ("a#b#2"); a container comes before its values."""
    children = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in children:
        inner = f"{path}#{key}" if path else str(key)
        yield inner, value
        yield from items(value, inner)


def look_up(config: Any, path: str) -> tuple[bool, Any]:
    """Whether a configuration has an id, and its value. An id inside an expression counts as present."""
    value = config
    for part in re.split(r"#|::", path):
        if isinstance(value, str) and value[:1] in ("@", "$", "%"):
            return True, None
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.lstrip("-").isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False, None
    return True, value


def read_ids(config: Any) -> set[str]:
    """All ids that the texts of a configuration refer to."""
    return {reference for _, value in items(config) for reference in references_in(value)}
