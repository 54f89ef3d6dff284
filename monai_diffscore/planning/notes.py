"""What readers of data say while a plan reads: each sentence once, because a plan reads a file several times."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "monai_diffscore"


@contextmanager
def notes_once() -> Iterator[None]:
    """Prints the package's log records from INFO on to stderr, each text once."""
    logger, handler = logging.getLogger(_PACKAGE), logging.StreamHandler()
    texts: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return text not in texts and not texts.add(text)  # type: ignore[func-returns-value]

    handler.addFilter(is_new)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
