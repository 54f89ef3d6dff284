"""The files of a bundle, read once, and what is said of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffscore.errors import DataError

Config = dict[str, Any]
#: configurations that stand alone; all others are overlays on one of them
BASES = ("train", "inference")
REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what was expected, what is there, what to do."""

    where: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.remedy}"


@dataclass(frozen=True)
class BundleFiles:
    """A bundle's folder and its configurations by name, without metadata; what could not be read is a finding."""

    folder: Path
    configs: dict[str, Config]
    metadata: Config
    unreadable: list[Finding]

    @classmethod
    def read(cls, folder: str | Path) -> BundleFiles:
        """Reads a bundle.

        Raises:
            DataError: if there is none.
        """
        folder = Path(folder)
        found = sorted((folder / "configs").glob("*.json"))
        if not found:
            raise DataError(
                folder, key="bundle", expected="a bundle, with configs/*.json", got="no such file",
                remedy="Give the folder of a bundle, such as bundles/mri_unet3d.",
            )  # fmt: skip
        configs: dict[str, Config] = {}
        findings = []
        for file in found:
            try:
                configs[file.stem] = json.loads(file.read_text(), object_pairs_hook=_refuse_twice)
            except (ValueError, OSError) as error:
                findings.append(
                    Finding(f"configs/{file.name}", "JSON with each key once", str(error), "Correct the file.")
                )
        return cls(folder, configs, configs.pop("metadata", {}), findings)

    @property
    def bases(self) -> dict[str, Config]:
        """The configurations that stand alone."""
        return {name: config for name, config in self.configs.items() if name in BASES}

    @property
    def overlays(self) -> dict[str, Config]:
        """The others."""
        return {name: config for name, config in self.configs.items() if name not in BASES}


def _refuse_twice(pairs: list[tuple[str, Any]]) -> Config:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"the key {twice[0]!r} twice in one object, of which the last would win")
    return dict(pairs)


def items(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a configuration, containers before what they hold, with their ids ("a#b#2")."""
    children = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in children:
        inner = f"{path}#{key}" if path else str(key)
        yield inner, value
        yield from items(value, inner)


def look_up(config: Any, path: str) -> tuple[bool, Any]:
    """Whether an id is in a configuration, and its value; below an expression anything may be."""
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


def references_in(config: Any) -> set[str]:
    """All ids that strings of a configuration refer to."""
    texts = [value for _, value in items(config) if isinstance(value, str) and value[:1] in ("@", "$", "%")]
    return {found.replace("::", "#") for text in texts for found in REFERENCE.findall(text)}
