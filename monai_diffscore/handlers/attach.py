"""A handler that is defined elsewhere in a configuration, in a list of handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ignite.engine import Engine


class Handler(Protocol):
    """Anything with ``attach(engine)``."""

    def attach(self, engine: Engine) -> None:
        """Adds its event handlers to the engine."""


class Attach:
    """Attaches handlers that other parts of a configuration refer to by their ids, such as the EMA.

    MONAI's checks and MONAI Label expect each entry of ``train#handlers`` to be a dictionary with ``_target_``, which
    a plain reference ``"@ema"`` is not.

    Args:
        handler: the handler, or several in order.
    """

    def __init__(self, handler: Handler | Sequence[Handler]) -> None:
        self.handlers = handler if isinstance(handler, Sequence) else [handler]

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
