"""Removal of secrets from records, files, logs and messages.

A tracking URI can hold user and password, and the environment holds tokens. Written URIs name the server alone. A
reader takes user and password from ``MLFLOW_TRACKING_URI``.

A password may hold any character but a space: drivers of databases take ``/`` and ``'`` as they are. A number between
the first colon and a slash is a port of a web server, and a password of a database.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

#: after the scheme a name without a colon, or name:password up to the last "@" before the next URI
_IN_URI = re.compile(
    r"\b(?!https?://[^/\s:]*:\d{1,5}[/'\"])([a-z][\w+.-]*://)(?:[^/\s'\":]*|[^/\s'\"@:\[]*:(?:(?!://)\S)*)@",
    re.IGNORECASE,
)
_NAME = "PASSWORD|PASSWD|PWD|TOKEN|SECRET|API_?KEY|ACCESS_KEY"
_SECRET = re.compile(_NAME.replace("|PWD", ""), re.IGNORECASE)  # PWD of a shell is its folder
_IN_QUERY = re.compile(rf"([?&;][\w-]*(?:{_NAME})[\w-]*=)[^&;\s'\"]+", re.IGNORECASE)
_SHORTEST = 5  # shorter values, such as "1" or "none", are parts of many words


def conceal(text: str) -> str:
    """The text without users and secrets in URIs, and without passwords, tokens and keys of the environment."""
    text = _IN_QUERY.sub(r"\1***", _IN_URI.sub(r"\1", text))
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
