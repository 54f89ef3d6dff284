"""How handlers are attached: by reference in a configuration, and to the end of an evaluation, be it Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ignite.engine import Engine, EventEnum, Events


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


class EvaluationEvents(EventEnum):
    """INTERRUPTED fires once when Ctrl-C ends an evaluation, before it goes on to the caller."""

    INTERRUPTED = "evaluation_interrupted"


def attach_at_end(engine: Engine, save: Callable[[Engine], Any]) -> None:
    """Calls ``save`` when an evaluation is done, or when Ctrl-C ends it: what was evaluated until then is written."""
    if not engine.has_event_handler(_interrupt, Events.EXCEPTION_RAISED):
        engine.register_events(*EvaluationEvents)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _interrupt)
    engine.add_event_handler(Events.COMPLETED, save)
    engine.add_event_handler(EvaluationEvents.INTERRUPTED, save)


def _interrupt(engine: Any, error: BaseException) -> None:
    # Ignite tells of an exception twice: for the epoch, and for the run
    if isinstance(error, KeyboardInterrupt) and getattr(engine, "stop_reason", None) is not error:
        engine.stop_reason = error
        engine.fire_event(EvaluationEvents.INTERRUPTED)
    raise error
