r"""Averages of any length after a training, from snapshots of two averages.

An average of exponent :math:`\gamma` after T steps has the weight :math:`(k/T)^{\gamma+1} - ((k-1)/T)^{\gamma+1}` at
step k. A snapshot i holds such an average, with the profile :math:`p_i` of its weights over all steps. The
reconstruction of another profile q is the combination of snapshots with the coefficients

.. math::  x = \arg\min_x \bigl\lVert \textstyle\sum_i x_i\, p_i - q \bigr\rVert^2 , \qquad \textstyle\sum_i x_i = 1 .

Source: Karras et al. 2024, arXiv:2312.02696, section 3.2. Their profiles are continuous in time; these are exact for
the steps of :class:`~monai_diffscore.handlers.ema.PowerEMA`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_diffscore.data.manifests import note_weights
from monai_diffscore.errors import DataError
from monai_diffscore.handlers.checkpoint import save_atomically
from monai_diffscore.handlers.ema import PowerEMA, power_function_exponent

logger = logging.getLogger(__name__)

_BINS = 20_000  # of steps; longer trainings have several steps in a bin


class SnapshotEMA(PowerEMA):
    """A :class:`PowerEMA` that also tracks a second length, and saves snapshots of both.

    Args:
        network: the trained network.
        folder: of the files ``snapshot_<steps>.pt``.
        relative_length: length of the average in ``network``.
        second_length: length of the other average, as a share of the training.
        every: steps between snapshots; the last step has one, too.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        relative_length: float = 0.1,
        second_length: float = 0.05,
        every: int = 250,
    ) -> None:
        super().__init__(network, relative_length)
        self.second = PowerEMA(network, second_length)
        self.folder, self.every = Path(folder), every

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def update(self, _engine: Engine | None = None) -> None:
        """One step of both averages."""
        super().update()
        self.second.update()
        if self.updates % self.every == 0:
            self.save()

    def save(self, _engine: Engine | None = None) -> None:
        """Writes a snapshot of both averages."""
        if idist.get_rank() == 0:
            averages = {ema.exponent: ema.network.state_dict() for ema in (self, self.second)}
            self.folder.mkdir(parents=True, exist_ok=True)
            save_atomically(averages, self.folder / f"snapshot_{self.updates:08d}.pt")

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.second.load_state_dict(state["second"])


def profile(exponent: float, steps: int, edges: np.ndarray) -> np.ndarray:
    """The weight of an average after ``steps`` steps in each bin between the steps ``edges`` [bins + 1]."""
    return np.diff((np.minimum(edges, steps) / steps) ** (exponent + 1))


def combination(snapshots: Sequence[tuple[float, int]], relative_length: float) -> tuple[np.ndarray, float]:
    """The coefficients [snapshots] of an average at the last step, and the relative error of its profile.

    Args:
        snapshots: exponent and number of steps of each.
        relative_length: of the average.
    """
    steps = max(steps for _, steps in snapshots)
    edges = np.linspace(0, steps, min(steps, _BINS) + 1)
    profiles = np.stack([profile(exponent, at, edges) for exponent, at in snapshots], axis=1)
    wanted = profile(power_function_exponent(relative_length), steps, edges)
    # the coefficients of sum 1 are those of one snapshot plus differences of snapshots
    differences = profiles[:, :-1] - profiles[:, -1:]
    free = np.linalg.lstsq(differences, wanted - profiles[:, -1], rcond=None)[0]
    coefficients = np.append(free, 1 - free.sum())
    error = np.linalg.norm(profiles @ coefficients - wanted) / np.linalg.norm(wanted)
    return coefficients, float(error)


def reconstruct(folder: str | Path, relative_length: float) -> dict[str, Tensor]:
    """The weights of the average of a length at the last snapshot. Integers are those of the last snapshot.

    Args:
        folder: of a :class:`SnapshotEMA`.
        relative_length: of the average, as a share of the training.
    Raises:
        DataError: for a folder without snapshots.
    """
    files = _files(folder)
    snapshots = [(file, exponent) for file in files.values() for exponent in torch.load(file, weights_only=True)]
    pairs = [(exponent, _steps(file)) for file, exponent in snapshots]
    coefficients, error = combination(pairs, relative_length)
    logger.info(f"average of length {relative_length:g} from {len(pairs)} snapshots, error of its profile {error:.2%}")
    total: dict[str, Tensor] = {}
    for (file, exponent), coefficient in zip(snapshots, coefficients, strict=True):
        for name, value in torch.load(file, map_location="cpu", weights_only=True)[exponent].items():
            if value.is_floating_point():
                total[name] = total.get(name, 0) + float(coefficient) * value.double()
            else:
                total[name] = value
    last = torch.load(snapshots[-1][0], map_location="cpu", weights_only=True)[snapshots[-1][1]]
    return {name: value.to(last[name].dtype) for name, value in total.items()}


def _steps(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _files(folder: str | Path) -> dict[int, Path]:
    """The snapshots of a folder by their number of steps, increasing."""
    files = {_steps(file): file for file in sorted(Path(folder).glob("snapshot_*.pt"))}
    if not files:
        raise DataError(
            folder, expected="files snapshot_<steps>.pt", got="none",
            remedy="Train with the overlay configs/ema_snapshots.json.",
        )  # fmt: skip
    return files


def earlier_network(network: nn.Module, folder: str | Path, share: float = 0.25) -> nn.Module:
    """A copy of a network with the average of an earlier snapshot, for
    :class:`~monai_diffscore.guidance.Autoguidance`.

    Args:
        network: the network of the training.
        folder: of a :class:`SnapshotEMA`.
        share: of the training at which the snapshot stands; the nearest one counts.
    Raises:
        DataError: for a folder without snapshots.
    """
    files = _files(folder)
    steps = min(files, key=lambda steps: abs(steps - share * max(files)))
    averages = list(torch.load(files[steps], map_location="cpu", weights_only=True).values())
    earlier = copy.deepcopy(network)
    earlier.load_state_dict(averages[0])
    return earlier.requires_grad_(False).eval()


def choose_length(
    folder: str | Path,
    network: nn.Module,
    evaluator: Any,
    path: str | Path,
    lengths: Sequence[float] = (0.02, 0.03, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25),
    metric: str = "denoising_error",
) -> dict[float, float]:
    """Writes the weights of the average with the smallest held-out error; returns the error of each length.

    Args:
        folder: of a :class:`SnapshotEMA`.
        network: takes the weights of each length; the evaluator measures it.
        evaluator: of held-out data.
        path: of the weights.
        lengths: to try.
        metric: of the evaluator; less is better.
    """
    errors: dict[float, float] = {}
    for length in lengths:
        network.load_state_dict(reconstruct(folder, length))
        evaluator.run()
        errors[length] = float(evaluator.state.metrics[metric])
        logger.info(f"average of length {length:g}: held-out {metric} {errors[length]:.5g}")
    best = min(errors, key=errors.__getitem__)
    save_atomically(reconstruct(folder, best), Path(path))
    note_weights(Path(path), {"ema_length": best, metric: errors[best]})
    logger.info(f"weights of length {best:g}: {path}")
    return errors
