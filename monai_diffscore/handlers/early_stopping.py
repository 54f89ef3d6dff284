"""Early stopping by the error of held-out data."""

from __future__ import annotations

import logging
import math
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor, nn, tensor

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends the training after ``patience`` validations without a better key metric, and restores the best weights.

    A network memorises a small set: the error on training data falls while that on held-out data rises again. The state
    is an object of the checkpoint, so that a continued training keeps it.

    Args:
        validator: the evaluator. Its key metric decides; less is better.
        network: the network that gets the best weights at the end, normally the EMA's.
        patience: number of validations; 0 never ends a training and keeps the last weights.
    """

    def __init__(self, validator: Engine, network: nn.Module, patience: int = 0) -> None:
        self.validator, self.network, self.patience = validator, network, patience
        self.best = math.inf
        self.best_iteration = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}
        self._trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        if self.patience > 0:
            self._trainer = engine
            self.validator.add_event_handler(Events.COMPLETED, self.look)
            engine.add_event_handler(Events.COMPLETED, self.restore)

    def look(self, validator: Engine) -> None:
        """Compares the last validation with the best one."""
        assert self._trainer is not None
        name = validator.state.key_metric_name  # type: ignore[attr-defined]  # MONAI's key metric
        value = float(validator.state.metrics[name])
        if value < self.best:
            self.best, self.best_iteration, self.waited = value, self._trainer.state.iteration, 0
            self.weights = {
                key: state.detach().cpu().clone()
                for key, state in self.network.state_dict().items()
                if isinstance(state, Tensor)
            }
            return
        self.waited += 1
        if self.waited >= self.patience and not self._trainer.should_terminate:
            logger.info(
                f"{name} has not fallen in {self.waited} validations: stopping at iteration "
                f"{self._trainer.state.iteration}, with the weights of {self.best_iteration} ({self.best:.4f})"
            )
            self._trainer.terminate()

    def restore(self, _trainer: Engine) -> None:
        """Loads the weights of the best validation into the network."""
        if self.weights:
            self.network.load_state_dict(self.weights, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Best error, its iteration, validations since then, and the best weights."""
        numbers = tensor([self.best, self.best_iteration, self.waited]).double()
        return {"numbers": numbers, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        best, iteration, waited = state["numbers"].tolist()
        self.best, self.best_iteration, self.waited = best, int(iteration), int(waited)
        self.weights = dict(state["weights"])
