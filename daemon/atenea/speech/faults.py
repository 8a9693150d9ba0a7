"""What goes wrong between us and a server with OpenAI's protocols, as errors that say what to do.

What trying again can mend is a TransientError: no connection, a stalled or torn one, limits, faults of the server. All
else is a PermanentError: the key, the account, the model, the request. What the server says is quoted, short and
without the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from atenea.credentials import redact
from atenea.errors import PermanentError, TransientError
from atenea.speech.patience import retry_after

Fault = PermanentError | TransientError

_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_PASSING = frozenset({408, 409, 425, 429})
_LACKING = 501
_QUOTED = 300
_ACTIONS = {
    401: "put a valid OPENAI_API_KEY into atenea.env",
    403: "let the key's project use this model, or take another one",
    404: "set model or base_url",
    _LACKING: "it lacks this interface; set api or model",
}


class SessionExpiredError(TransientError):
    """A session is too old; the next one will do."""


@dataclass(frozen=True)
class Server:
    """The other side, for sentences about it.

    Attributes:
        host: its name.
        model: the model that it is asked for.
        key: never to be shown.
        stall_seconds: how long it may send nothing.
    """

    host: str
    model: str
    key: str
    stall_seconds: float

    def status(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> Fault:
        """The error for an HTTP status that is no success; `body` is the `error` object of its JSON."""
        said = self._said(body.get("message") or body.get("detail"))
        if {str(body.get("code")), str(body.get("type"))} & _QUOTA:
            return self._no_credit(said)
        if status in _PASSING or (status >= 500 and status != _LACKING):
            what = "is asked too often" if status == 429 else f"answers with status {status}"
            return TransientError(f"{self.host} {what}: {said}", retry_after=retry_after(headers))
        if status < 400:
            return PermanentError(
                f"{self.host} sends us elsewhere (status {status}): set base_url to the right address"
            )
        action = _ACTIONS.get(
            404 if body.get("code") == "model_not_found" else status, "look at model, voice and format"
        )
        return PermanentError(f"{self.host} refuses {self.model!r} with status {status}: {said}; {action}")

    def event(self, error: Any) -> Fault:
        """The error for the `error` object of an event of the Realtime API."""
        code, kind, message = (getattr(error, name, None) for name in ("code", "type", "message"))
        said = self._said(message)
        if code == "session_expired":
            return SessionExpiredError(f"{self.host} ended the session: {said}")
        if {code, kind} & _QUOTA:
            return self._no_credit(said)
        if code == "rate_limit_exceeded" or kind == "rate_limit_error":
            return TransientError(f"{self.host} is asked too often: {said}", retry_after=_named_seconds(message))
        if kind == "invalid_request_error":
            action = _ACTIONS[401] if code == "invalid_api_key" else "look at model and voice"
            return PermanentError(f"{self.host} refuses {self.model!r}: {said}; {action}")
        return TransientError(f"{self.host} has an error: {said}")

    def closed(self, reason: str | None) -> TransientError:
        """The error for a WebSocket connection that ended."""
        kind = SessionExpiredError if "maximum duration" in (reason or "") else TransientError
        return kind(f"{self.host} closed the connection: {self._said(reason)}")

    def _no_credit(self, said: str) -> PermanentError:
        return PermanentError(
            f"the account at {self.host} has no credit left: {said}; add some, then run: atenea retry"
        )

    def _said(self, message: object) -> str:
        text = " ".join(str(message or "no reason given").split())
        return redact(text, [self.key] if self.key else [])[:_QUOTED].rstrip(".")


@contextmanager
def translated(server: Server) -> Iterator[None]:
    """Raise what the SDK and what is beneath it raise as PermanentError or TransientError, and nothing of it as cause.

    Causes hold requests, and these hold the key.
    """
    import httpx2  # noqa: PLC0415 - takes a second with all that it brings
    from openai import APIConnectionError, APIStatusError, APITimeoutError  # noqa: PLC0415 - see above
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus  # noqa: PLC0415 - see above

    try:
        yield
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        raise server.status(error.status_code, error.response.headers, body) from None
    except InvalidStatus as error:
        headers = {name.lower(): value for name, value in error.response.headers.raw_items()}
        raise server.status(error.response.status_code, headers, _error_object(error.response.body)) from None
    except (TimeoutError, APITimeoutError, httpx2.TimeoutException):
        raise TransientError(f"{server.host} sent nothing for {server.stall_seconds:g} seconds") from None
    except ConnectionClosed as error:
        raise server.closed(error.rcvd.reason if error.rcvd else None) from None
    except (APIConnectionError, httpx2.HTTPError, InvalidHandshake, OSError) as error:
        reason = type(error.__cause__ or error).__name__
        raise TransientError(
            f"the connection to {server.host} failed ({reason}); if it stays so, look at base_url and the network"
        ) from None
    except ValueError:
        raise TransientError(f"{server.host} sent what is not understood; is base_url right?") from None


def _error_object(body: bytes | None) -> Mapping[str, Any]:
    with suppress(ValueError):
        found = json.loads(body or b"{}")
        inner = found.get("error", found) if isinstance(found, dict) else {}
        return inner if isinstance(inner, dict) else {}
    return {}


def _named_seconds(message: object) -> float | None:
    """The seconds in "Please try again in 1.5s", for events, which have no headers."""
    found = re.search(r"try again in (\d+(?:\.\d+)?)(ms|s)\b", str(message or ""))
    return float(found[1]) * (0.001 if found[2] == "ms" else 1.0) if found else None
