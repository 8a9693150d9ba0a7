"""The Hugging Face hub: what it states about the bundle's files, and their content, from where a download stopped.

`huggingface_hub` knows the hub's addresses, tokens, proxies and `$HF_ENDPOINT`; the content is received here, because a
plain request with a `Range` header goes on after any interruption, and leaves nothing beside the file.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import atenea
from atenea.errors import AteneaError, UsageError
from atenea.installing import pip
from atenea.models.checking import OnBytes
from atenea.models.manifest import COMMIT, REPOSITORY

TIMEOUT_SECONDS = 30.0
"""Without a byte for so long a connection counts as lost."""
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Before each further attempt, as long as none brings anything new."""
_OK, _PARTIAL = 200, 206
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Stated:
    """What the hub states about a file of the pinned commit."""

    path: str
    size: int
    """In bytes."""
    sha256: str | None
    """Of large files."""
    blob: str
    """The git name of the content; of large files, of what stands for it."""


class _LostError(Exception):
    """A connection that brought nothing or not all, and may work the next time."""


class Hub:
    """The hub, or the mirror that `$HF_ENDPOINT` names.

    Raises:
        AteneaError: `huggingface_hub` is not installed.
        UsageError: `$HF_ENDPOINT` is no address.
    """

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            import huggingface_hub  # noqa: PLC0415 - an extra, and slow to import
            from huggingface_hub import constants, errors, hf_api  # noqa: PLC0415
        except ImportError:
            command = pip("install", "atenea[hallo2]")
            raise AteneaError(f"huggingface_hub is not installed; run: {command}") from None
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.endpoint = _checked_endpoint(constants.ENDPOINT)
        self._url = huggingface_hub.hf_hub_url
        self._api = huggingface_hub.HfApi(self.endpoint, library_name="atenea", library_version=atenea.__version__)
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
        self._headers = {"user-agent": f"atenea/{atenea.__version__}", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._session = huggingface_hub.get_session()
        self._session.timeout = TIMEOUT_SECONDS
        # The base of its client's errors: of httpx, or of what has taken its place.
        self._client_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
        self._file_type = hf_api.RepoFile

    def state(self, paths: list[str]) -> dict[str, Stated]:
        """What the hub states about files of the pinned commit, by path.

        Raises:
            AteneaError: it cannot be reached, refuses, or has not all of them.
        """
        with self._sentences():
            infos = self._api.get_paths_info(REPOSITORY, paths, revision=COMMIT)
            found = {
                info.path: Stated(info.path, info.size, info.lfs.sha256 if info.lfs else None, info.blob_id)
                for info in infos
                if isinstance(info, self._file_type)
            }
        if lacking := [path for path in paths if path not in found]:
            raise AteneaError(
                f"{self.endpoint}: has no {lacking[0]} in {REPOSITORY} at {COMMIT[:7]}; take another mirror"
            )
        return found

    def receive(self, file: Stated, part: Path, on_bytes: OnBytes) -> None:
        """Append to `part` what it lacks of a file; a lost connection is taken up again.

        Raises:
            AteneaError: the hub refuses, or no attempt brings anything more.
            OSError: `part` cannot be written.
        """
        waits = iter(WAITS_SECONDS)
        while (have := _size(part)) < file.size:
            try:
                self._append(file, have, part, on_bytes)
            except _LostError as lost:
                if _size(part) > have:
                    waits = iter(WAITS_SECONDS)
                seconds = next(waits, None)
                if seconds is None:
                    raise AteneaError(f"{self.endpoint}: {lost} while {file.path} was fetched; {_LATER}") from None
                time.sleep(seconds)

    def _append(self, file: Stated, have: int, part: Path, on_bytes: OnBytes) -> None:
        url = self._url(REPOSITORY, file.path, revision=COMMIT, endpoint=self.endpoint)
        headers = {**self._headers, "range": f"bytes={have}-"} if have else self._headers
        length = have
        try:
            with self._session.stream("GET", url, headers=headers) as response, part.open("ab") as out:
                self._check_status(response.status_code, file.path)
                if have and response.status_code == _OK:  # it sends the whole file whatever was asked for
                    out.truncate(0)
                    on_bytes(file.path, -have)
                    length = 0
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    length += len(chunk)
                    on_bytes(file.path, len(chunk))
                    if length > file.size:  # it is not what was stated; there may be no end to it
                        return
        except self._client_error as error:
            raise _LostError(f"the connection was lost ({_reason(error)})") from None
        if length <= have:
            raise _LostError("nothing came")

    def _check_status(self, status: int, path: str) -> None:
        if status in _PASSING:
            raise _LostError(f"it answered {status}")
        if status not in {_OK, _PARTIAL}:
            raise AteneaError(_refusal(self.endpoint, status, path))

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what can go wrong with a question into a sentence."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415

        try:
            yield
        except HfHubHTTPError as error:
            raise AteneaError(_refusal(self.endpoint, error.response.status_code, REPOSITORY)) from None
        except OfflineModeIsEnabled:
            raise AteneaError("HF_HUB_OFFLINE forbids to fetch models; unset it, and run it again") from None
        except self._client_error as error:
            raise AteneaError(
                f"{self.endpoint}: cannot be reached ({_reason(error)}); check the network and HF_ENDPOINT"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise AteneaError(
                f"{self.endpoint}: does not answer like the Hugging Face hub; check HF_ENDPOINT"
            ) from None


_LATER = "run it again later, and it goes on where it is"


def _refusal(endpoint: str, status: int, what: str) -> str:
    if status in {401, 403}:
        cure = "it wants to know who you are: set HF_TOKEN to a token of yours"
    elif status == 404:
        cure = "it does not have that: unset HF_ENDPOINT, or name a mirror that has it"
    else:
        cure = _LATER
    return f"{endpoint}: answered {status} when asked for {what}; {cure}"


def _checked_endpoint(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"HF_ENDPOINT: {endpoint} is no address such as https://huggingface.co; mend it or unset it")
    return endpoint


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
