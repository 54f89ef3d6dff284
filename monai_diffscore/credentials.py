"""Removal of secrets from records, files, logs and messages.

A tracking URI can hold user and password, and the environment holds tokens. Written URIs name the server alone. A
reader takes user and password from ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_IN_URI = re.compile(r"(?<=://)[^/\s'\"@]*(?:@[^/\s'\"@]*)*@(?=[^/\s'\"@]+)")
_SECRET = re.compile(r"(?:PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_SHORTEST = 5  # shorter values, such as "1" or "none", are parts of many words


def conceal(text: str) -> str:
    """The text without the users and passwords of URIs, and without passwords, tokens and keys of the environment."""
    text = _IN_URI.sub("", text)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST and value in text:
            text = text.replace(value, "***")
    return text


def conceal_all(value: Any) -> Any:
    """A configuration after :func:`conceal` of every text."""
    if isinstance(value, str):
        return conceal(value)
    if isinstance(value, Mapping):
        return {key: conceal_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [conceal_all(item) for item in value]
    return value


def reveal(uri: str) -> str:
    """``MLFLOW_TRACKING_URI`` of the environment, if ``uri`` is its concealed form; otherwise ``uri``."""
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return tracking_uri if tracking_uri and conceal(tracking_uri) == uri else uri
