"""The control socket: one JSON line asks, one JSON line answers."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atenea.errors import AteneaError, BusyError, ExitCode, UsageError
from atenea.ledger_file import LEDGER
from atenea.places import HasPlaces
from atenea.state_lock import StateLock

if TYPE_CHECKING:
    import asyncio

    from atenea.queue_desk import QueueDesk

SOCKET = "control.sock"

RECENT = 20
"""Finished jobs in a list, unless more are asked for."""

MOST = 1_000_000

_MOST_BYTES = 1 << 16
_PATIENCE_SECONDS = 15.0
_CREDENTIALS = struct.Struct("3i")
"""Of the process at the other end of a socket: its id, its user and its group."""


class ControlServer:
    """Serves a desk on the socket of a state folder."""

    def __init__(self, state: Path, desk: QueueDesk) -> None:
        self._state = state
        self._desk = desk
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; the state folder's lock must be held, so a socket that is there is a dead one."""
        import asyncio  # noqa: PLC0415 - the commands start faster without it

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with _short_path(self._state) as address:
            Path(address).unlink(missing_ok=True)
            listener.bind(address)
            os.chmod(address, 0o660)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_MOST_BYTES)

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server:
            self._server.close()
            (self._state / SOCKET).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line without end
            pass
        finally:
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            return {"result": self._desk.answer(str(request.pop("command")), request)}
        except AteneaError as error:
            return {"error": str(error), "exit_code": int(error.exit_code)}
        except (OSError, sqlite3.Error) as error:
            return {"error": _sentence(self._state, error), "exit_code": int(ExitCode.FAILED)}
        except (ValueError, KeyError, AttributeError, RecursionError):
            return {"error": "not a JSON object with a command", "exit_code": int(ExitCode.USAGE)}


def ask(config: HasPlaces, command: str, **arguments: Any) -> dict[str, Any]:
    """Have a command carried out by the daemon, or do it here when no daemon runs.

    Raises:
        AteneaError: it cannot be done.
        BusyError: another process holds the state folder, and does not answer.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        answer = _daemons_answer(config, command, arguments)
        if answer is not None:
            return answer
        _check_ledger(config)
        try:
            with StateLock(config.paths.state):
                return _answer_here(config, command, arguments)
        except BusyError:  # a daemon that is starting, or another command
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def look(config: HasPlaces, command: str, **arguments: Any) -> dict[str, Any]:
    """Ask the daemon for what changes nothing, or read the ledger when no daemon runs.

    For one who asks again and again: unlike `ask`, it does not hold the state folder's lock, which would keep a daemon
    from starting.

    Raises:
        AteneaError: it cannot be answered.
        BusyError: the daemon does not answer.
    """
    answer = _daemons_answer(config, command, arguments)
    if answer is not None:
        return answer
    _check_ledger(config)
    return _answer_here(config, command, arguments, only_read=True)


def _daemons_answer(config: HasPlaces, command: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """None when no daemon runs."""
    try:
        return _ask_daemon(config.paths.state, command, arguments)
    except (FileNotFoundError, ConnectionError, BlockingIOError):  # the last one: too many ask at once
        return None
    except TimeoutError:
        raise BusyError(f"{config.paths.state}: the daemon does not answer; see its log") from None
    except PermissionError:
        raise UsageError(
            f"{config.paths.state / SOCKET}: you may not talk to the daemon; join the group that owns the socket"
        ) from None


def daemon_process(state: Path) -> int | None:
    """The process id of the daemon that listens in a state folder; None if none does.

    Raises:
        PermissionError: the socket is not for this user.
        OSError: it cannot be connected to for another reason, such as too many who wait.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            with _short_path(state) as address:
                connection.connect(address)
        except (FileNotFoundError, NotADirectoryError, ConnectionError):
            return None
        process, _user, _group = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return int(process)


def _ask_daemon(state: Path, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        with _short_path(state) as address:
            connection.connect(address)
        connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
        line = connection.makefile("rb").readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError
    answer = json.loads(line)
    if "error" in answer:
        raise _error(answer)
    result: dict[str, Any] = answer["result"]
    return result


def _error(answer: dict[str, Any]) -> AteneaError:
    error = AteneaError(answer["error"])
    error.exit_code = ExitCode(answer["exit_code"])
    return error


def _check_ledger(config: HasPlaces) -> None:
    if not (config.paths.state / LEDGER).exists():
        raise UsageError(
            f"{config.paths.state}: no daemon has run here yet; start it (atenea run), or name its --config"
        )


def _answer_here(
    config: HasPlaces, command: str, arguments: dict[str, Any], *, only_read: bool = False
) -> dict[str, Any]:
    # Here, because asking the daemon does without them.
    from atenea.ledger import Ledger  # noqa: PLC0415
    from atenea.queue_desk import NotRunning, QueueDesk  # noqa: PLC0415

    path = config.paths.state / LEDGER
    if not path.stat().st_size and any(folder.is_dir() for folder in config.jobs.glob("*")):
        raise AteneaError(f"{path}: is empty, though there are jobs; the daemon mends it: atenea run")
    ledger = Ledger(path, only_read=only_read)
    try:
        return QueueDesk(config, ledger, NotRunning()).carry_out(command, arguments)
    except (OSError, sqlite3.Error) as error:
        raise AteneaError(_sentence(config.paths.state, error)) from None
    finally:
        ledger.close()


def _sentence(state: Path, error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or state}: {error.strerror or error}; when that is mended, give the command again"
    return f"{state / LEDGER}: {error}"


@contextmanager
def _short_path(state: Path) -> Iterator[str]:
    """The socket's address by way of a descriptor: it may have 107 bytes at most, the folder's path more."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
