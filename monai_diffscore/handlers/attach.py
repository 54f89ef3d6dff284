"""Ways to attach handlers: by reference in a configuration, and to the end of an evaluation, Ctrl-C included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ignite.engine import Engine, EventEnum, Events


class Handler(Protocol):
    """Anything with ``attach(engine)``."""

    def attach(self, engine: Engine) -> None:
        """Adds its event handlers to the engine."""


class Attach:
    """Attaches handlers that have ids of their own in a configuration, such as the EMA.

    MONAI's checks and MONAI Label expect each entry of ``train#handlers`` to be a dictionary with ``_target_``. A plain
    reference ``"@ema"`` is none.

    Args:
        handler: a handler, or several in order.
    """

    def __init__(self, handler: Handler | Sequence[Handler]) -> None:
        self.handlers = handler if isinstance(handler, Sequence) else [handler]

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)


class EvaluationEvents(EventEnum):
    """INTERRUPTED fires once when Ctrl-C ends an evaluation, before the caller sees the exception."""

    INTERRUPTED = "evaluation_interrupted"


def attach_at_end(engine: Engine, save: Callable[[Engine], Any]) -> None:
    """Calls ``save`` when an evaluation ends or Ctrl-C ends it, so that finished batches are written."""
    if not engine.has_event_handler(_interrupt, Events.EXCEPTION_RAISED):
        engine.register_events(*EvaluationEvents)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _interrupt)
    engine.add_event_handler(Events.COMPLETED, save)
    engine.add_event_handler(EvaluationEvents.INTERRUPTED, save)


def _interrupt(engine: Any, error: BaseException) -> None:
    # Ignite reports an exception twice: for the epoch, and for the run
    if isinstance(error, KeyboardInterrupt) and getattr(engine, "stop_reason", None) is not error:
        engine.stop_reason = error
        engine.fire_event(EvaluationEvents.INTERRUPTED)
    raise error
