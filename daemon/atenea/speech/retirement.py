"""When OpenAI's speech models end: what it announced, and what its list of models says today."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from typing import Any

SUCCESSOR = "gpt-realtime-2.1-mini"
"""The successor that OpenAI names for its speech models; served by the Realtime API alone."""

_ANNOUNCED = {
    r"tts-1(-hd)?(-1106)?": date(2027, 1, 6),
    r"gpt-4o-mini-tts(-\d{4}-\d\d-\d\d)?": date(2027, 1, 6),
    r"gpt-realtime(-mini)?(-2025-\d\d-\d\d)?": date(2027, 1, 20),
}
"""Names of models, as patterns, and the day from which OpenAI no longer serves them."""


def retirement(model: str) -> date | None:
    """The day from which OpenAI no longer serves the model, if it was announced before this was written."""
    return next((day for pattern, day in _ANNOUNCED.items() if re.fullmatch(pattern, model)), None)


def listed_shutdown(models: Iterable[Any], model: str) -> date | None:
    """The model's `shutdown_date` among the entries of `GET /v1/models`; None where it has none, as on most servers.

    The entries should be JSON objects; others do not count.
    """
    listed = next((entry for entry in models if isinstance(entry, dict) and entry.get("id") == model), {})
    try:
        return date.fromisoformat(str(listed.get("shutdown_date"))[:10])
    except ValueError:
        return None
