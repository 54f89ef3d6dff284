"""A handler that is defined elsewhere in a configuration, in a list of handlers."""

from __future__ import annotations

from typing import Protocol

from ignite.engine import Engine


class Handler(Protocol):
    """Anything with ``attach(engine)``."""

    def attach(self, engine: Engine) -> None:
        """Adds its event handlers to the engine."""


class Attach:
    """Attaches a handler that other parts of a configuration refer to by its id, such as the EMA.

    MONAI's checks and MONAI Label expect each entry of ``train#handlers`` to be a dictionary with ``_target_``, which
    a plain reference ``"@ema"`` is not.

    Args:
        handler: the handler.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        self.handler.attach(engine)
