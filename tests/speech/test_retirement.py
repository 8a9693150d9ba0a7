"""When models end."""

from __future__ import annotations

from datetime import date

import pytest

from atenea.speech.retirement import SUCCESSOR, listed_shutdown, retirement


@pytest.mark.parametrize(
    ("model", "day"),
    [
        ("tts-1", date(2027, 1, 6)),
        ("tts-1-hd", date(2027, 1, 6)),
        ("gpt-4o-mini-tts", date(2027, 1, 6)),
        ("gpt-4o-mini-tts-2025-12-15", date(2027, 1, 6)),
        ("gpt-realtime", date(2027, 1, 20)),
        ("gpt-realtime-mini-2025-12-15", date(2027, 1, 20)),
        ("gpt-realtime-2.1", None),
        (SUCCESSOR, None),
        ("kokoro", None),
    ],
)
def test_what_was_announced(model, day):
    assert retirement(model) == day


def test_what_the_list_of_models_says():
    models = [
        {"id": "a", "object": "model", "created": 1, "owned_by": "openai", "shutdown_date": "2027-01-06"},
        {"id": "b", "object": "model", "created": 1, "owned_by": "openai", "shutdown_date": None},
        {"id": "c", "object": "model", "created": 1, "owned_by": "someone"},
        {"id": "d", "object": "model", "created": 1, "owned_by": "someone", "shutdown_date": "soon"},
    ]
    dates = [listed_shutdown(["nonsense", {}, *models], name) for name in "abcde"]
    assert dates == [date(2027, 1, 6), None, None, None, None]
