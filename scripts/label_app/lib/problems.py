"""Problems with a request: unknown names, and the causes of wrapped errors."""

from __future__ import annotations

from typing import NoReturn

from monai_diffscore.errors import find_cause


class Unknown(Exception):
    """An unknown image, model, method or strategy; HTTP 404."""


def cause_of(error: Exception) -> BaseException:
    """The problem with data or values among the causes of an error; else the error itself.

    Transforms, configurations and engines wrap errors.
    """
    plain = find_cause(error)
    if plain is not None:
        return plain
    cause, deeper = error, error.__cause__
    while deeper is not None:
        if isinstance(deeper, ValueError):
            cause = deeper
        deeper = deeper.__cause__
    return cause


def raise_cause(error: Exception) -> NoReturn:
    """Raises the :func:`cause_of` an error."""
    cause = cause_of(error)
    if cause is error:
        raise error
    raise cause from None  # "from error" would close a circle, because the cause raised the error
