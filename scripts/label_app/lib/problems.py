"""Problems with a request: a name that nothing has, and the cause of an error that came out wrapped."""

from __future__ import annotations

from typing import NoReturn

from monai_diffscore.command_line import find_cause


class Unknown(Exception):
    """An image, a model, a method or a strategy that is not there; HTTP 404."""


def cause_of(error: Exception) -> BaseException:
    """The problem that an error was raised from, as far as one with data or values is among its causes; else itself.

    Transforms, configurations and engines wrap what was raised in them.
    """
    plain = find_cause(error)
    if plain is not None:
        return plain
    found, deeper = error, error.__cause__
    while deeper is not None:
        if isinstance(deeper, ValueError):
            found = deeper
        deeper = deeper.__cause__
    return found


def raise_cause(error: Exception) -> NoReturn:
    """Raises :func:`cause_of` an error that is being handled."""
    cause = cause_of(error)
    if cause is error:
        raise error
    raise cause from None  # from error would close a circle: the error was raised from the cause
