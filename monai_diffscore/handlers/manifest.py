"""The record of a sampling, beside its files: which weights and configuration the files are from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_diffscore.atomic_files import require_writable, write_json
from monai_diffscore.configuration import choices
from monai_diffscore.credentials import conceal_all
from monai_diffscore.data.files import file_hash
from monai_diffscore.data.manifests import MANIFEST, facts_of_weights
from monai_diffscore.handlers.attach import attach_at_end

logger = logging.getLogger(__name__)


class SaveManifest:
    """Writes ``manifest.json`` beside samples: weights and their training, seed, number, configuration, files.

    Older files that the command did not change belong to another command. A warning names them, and a report ignores
    them.

    Args:
        folder: of the samples.
        checkpoint: the weights.
        configuration: the executed configuration. The manifest holds a hash of its choices.
        facts: further entries, such as seed and number of samples.
    """

    def __init__(
        self, folder: str | Path, checkpoint: str | Path, configuration: Mapping[str, Any], **facts: Any
    ) -> None:
        self.folder, self.checkpoint, self.facts = Path(folder), Path(checkpoint), facts
        stated = json.dumps(conceal_all(choices(configuration)), sort_keys=True, default=str)
        self.configuration_hash = f"sha256:{hashlib.sha256(stated.encode()).hexdigest()}"
        self._before: dict[str, tuple[int, int]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.look)
        attach_at_end(engine, self.write)

    def look(self, _engine: Engine) -> None:
        """Notes the files in the folder before the sampling.

        Raises:
            DataError: if the folder cannot be written.
        """
        require_writable(self.folder, "--output_dir")
        self._before = self._files()

    def write(self, _engine: Engine) -> None:
        """Writes the manifest, and logs the paths of samples, pictures and record."""
        if idist.get_rank() != 0:
            return
        now = self._files()
        files = sorted(name for name in now if now[name] != self._before.get(name))
        if not files:
            return
        others = sorted(set(now) - set(files))
        if others:
            logger.warning(
                f"{self.folder} holds {len(others)} file(s) of another command (such as {others[0]}). A report leaves "
                f"them out; another --output_dir keeps each by itself."
            )
        weights_hash = file_hash(self.checkpoint)
        weights = {"weights": str(self.checkpoint.absolute()), "weights_hash": weights_hash}
        training = facts_of_weights(self.checkpoint, weights_hash)
        content = {
            **self.facts,
            **weights,
            "training": training,
            "configuration_hash": self.configuration_hash,
            "files": files,
        }
        write_json(self.folder / MANIFEST, content)
        pictures = [name for name in files if name.endswith(".png")]
        count = sum(Path(name).name != "gallery.png" for name in files)
        parts = [f"samples: {_quoted(self.folder)} ({count} file{'s' * (count != 1)})"]
        parts += [f"pictures: {_quoted(self.folder / pictures[0])}"] if pictures else []
        logger.info("; ".join([*parts, f"record: {_quoted(self.folder / MANIFEST)}"]))

    def _files(self) -> dict[str, tuple[int, int]]:
        """The files of the folder without the record, with the time and inode of each: a new write changes these."""
        states = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != MANIFEST and not path.name.startswith("."):
                state = os.stat(path)
                states[str(path.relative_to(self.folder))] = (state.st_mtime_ns, state.st_ino)
        return states


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.absolute()))
