"""The control socket: every request is answered, whatever goes wrong in it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atenea.config import Config, Paths
from atenea.control import SOCKET, ControlServer
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.queue_desk import NotRunning, QueueDesk


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"command": ["jobs"]}', "['jobs']: unknown command of the control socket"),
        (b"[" * 20_000, "not a JSON object with a command"),
        (b'{"command": "pause"}', "LEDGER: database or disk is full"),
    ],
)
def test_what_goes_wrong_is_answered(
    tmp_path: Path, db: Ledger, monkeypatch: pytest.MonkeyPatch, line: bytes, error: str
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def ask() -> dict[str, Any]:
        server = ControlServer(tmp_path, QueueDesk(Config(paths=Paths(state=tmp_path)), db, NotRunning()))
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(SOCKET)
            writer.write(line + b"\n")
            answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), 60))
            writer.close()
            await writer.wait_closed()
        finally:
            await server.stop()
        return answer

    monkeypatch.setattr(db, "pause", full)
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    assert asyncio.run(ask())["error"] == error.replace("LEDGER", str(tmp_path / LEDGER))
