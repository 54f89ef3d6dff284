"""Secrets are never written: not into records, files, logs or messages.

A tracking URI may hold user and password, the environment tokens. What is written names the server without them;
whoever reads it finds them again in ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_IN_URI = re.compile(r"(?<=://)[^/\s'\"@]*(?:@[^/\s'\"@]*)*@(?=[^/\s'\"@]+)")
_SECRET = re.compile(r"(?:PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_SHORTEST = 5  # shorter values, such as "1" or "none", stand in too many words


def conceal(text: str) -> str:
    """The text without user and password of its URIs, and without the environment's passwords, tokens and keys."""
    text = _IN_URI.sub("", text)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST and value in text:
            text = text.replace(value, "***")
    return text


def conceal_all(value: Any) -> Any:
    """A configuration with every text concealed."""
    if isinstance(value, str):
        return conceal(value)
    if isinstance(value, Mapping):
        return {key: conceal_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [conceal_all(item) for item in value]
    return value


def reveal(uri: str) -> str:
    """The environment's ``MLFLOW_TRACKING_URI``, if ``uri`` is what is written of it; else ``uri``."""
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    return known if known and conceal(known) == uri else uri
