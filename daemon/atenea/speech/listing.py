"""What a speech server says of its models and voices, for `atenea doctor`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import httpx2
from openai import APIStatusError, OpenAIError

from atenea.errors import PermanentError, TransientError
from atenea.finding import Finding, finding_of
from atenea.speech.faults import Server, translated
from atenea.speech.retirement import SUCCESSOR, listed_shutdown, retirement

if TYPE_CHECKING:
    from openai import OpenAI

_NO_LIST = frozenset({404, 405, 501})
"""What servers answer that have no such list."""


def server_findings(client: OpenAI, server: Server, voice: str, *, is_openai: bool, today: date) -> list[Finding]:
    """Ask whether the server takes the key, and has the model and the voice, and for how long.

    Args:
        client: of the server, without retries.
        server: the same for sentences, with the model and the key.
        voice: as the options name it.
        is_openai: whether it is OpenAI's own.
        today: in UTC.
    """
    try:
        with translated(server):
            try:
                models = _listed(client, "/models", "data")
            except APIStatusError as error:
                if error.status_code == 403 or (error.status_code in _NO_LIST and not is_openai):
                    return [_unlisted(server, error.status_code)]
                raise
    except (PermanentError, TransientError) as error:
        return [finding_of("server", "problem", str(error), "look at base_url and the network, then run this again")]
    reached = Finding("server", "ok", f"{server.host} answers{' and takes the key' if server.key else ''}")
    voices = () if is_openai else _voices_told(client, server, voice)
    return [reached, *_model_told(models, server, today, is_openai=is_openai), *voices]


def _listed(client: OpenAI, path: str, key: str) -> list[Any]:
    """The list that the server keeps at a path.

    Raises:
        openai.OpenAIError: it cannot be had.
        ValueError: something else came.
    """
    found = json.loads(client.get(path, cast_to=httpx2.Response).content)
    entries = found.get(key) if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise ValueError("no list")  # noqa: TRY004 - what `translated` takes for an answer that is not understood
    return entries


def _unlisted(server: Server, status: int) -> Finding:
    """A key may be restricted to speech, and few compatible servers have all of the interface."""
    return Finding(
        "server",
        "note",
        f"{server.host} does not tell which models it has (status {status}), so none of this could be checked",
        "let the key read the list of models, and look at base_url, which usually ends in /v1",
    )


def _model_told(models: list[Any], server: Server, today: date, *, is_openai: bool) -> Iterator[Finding]:
    """Whether the model is among those that the server tells of, and how long it stays."""
    names = sorted(str(entry["id"]) for entry in models if isinstance(entry, dict) and entry.get("id"))
    end = listed_shutdown(models, server.model) or (retirement(server.model) if is_openai else None)
    if end and end <= today:
        text = f"{server.host} retired {server.model} on {end}"
        yield Finding("model", "problem", text, f"set model to {SUCCESSOR!r}")
    elif names and server.model not in names:
        near = get_close_matches(server.model, names, n=5, cutoff=0.3) or names[:5]
        text = f"{server.host} has no model {server.model!r}, or not for this key"
        yield Finding("model", "problem", text, f"set model to one that it tells of, such as {', '.join(near)}")
    elif end:
        days = (end - today).days
        text = f"{server.host} retires {server.model} on {end}, in {days} {'day' if days == 1 else 'days'}"
        yield Finding("model", "note", text, f"set model to {SUCCESSOR!r} before that")
    elif names:
        yield Finding("model", "ok", f"{server.host} has {server.model}")


def _voices_told(client: OpenAI, server: Server, voice: str) -> Iterator[Finding]:
    """Whether the voice is among those that the server tells of: some compatible ones do."""
    if not re.fullmatch(r"[\w.-]+", voice):  # others mix several voices
        return
    try:
        entries = _listed(client, "/audio/voices", "voices")
    except (OpenAIError, ValueError):
        return
    names = sorted({name for entry in entries for name in _voice_names(entry)})
    if voice in names:
        yield Finding("voice", "ok", f"{server.host} has the voice {voice}")
    elif names:
        near = get_close_matches(voice, names, n=5, cutoff=0.3) or names[:5]
        text = f"{server.host} has no voice {voice!r}"
        yield Finding("voice", "problem", text, f"set voice to one that it tells of, such as {', '.join(near)}")


def _voice_names(entry: Any) -> Iterator[str]:
    """What a voice may be called by."""
    told = entry if isinstance(entry, dict) else {"id": entry}
    yield from (told[key] for key in ("id", "voice_id", "name") if isinstance(told.get(key), str))
