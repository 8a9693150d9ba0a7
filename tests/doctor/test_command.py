"""`atenea doctor` as people run it."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from doctor.unprivileged import unprivileged
from plugins.openai_server import SpeechServer
from system.instance import PATIENCE_SECONDS, Instance, NewInstance

from atenea import places
from atenea.control import SOCKET
from atenea.doctor import running
from atenea.doctor.configuration import read_configuration
from atenea.doctor.ledger import ledger_findings
from atenea.doctor.running import daemon_findings, started_at
from atenea.ledger_file import LEDGER

KEY = "sk-secret-0123456789"
PLAIN = "[post]\nplugins = []\n[post.provenance]\nenabled = false\n"


def findings(instance: Instance, code: int = 0) -> dict[str, dict[str, str]]:
    """What it says, by the names of the checks."""
    done = instance.atenea("doctor", "--json", code=code)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said.keys() == {"findings", "ok"}
    assert said["ok"] is (code == 0)
    assert all(finding.keys() == {"check", "status", "text", "cure"} for finding in said["findings"])
    return {finding["check"]: finding for finding in said["findings"]}


def test_a_machine_where_all_is_well(new_instance: NewInstance) -> None:
    instance = new_instance(PLAIN)
    before = sorted(instance.folder.rglob("*"))
    said = instance.atenea("doctor").stdout
    assert sorted(instance.folder.rglob("*")) == before
    lines = said.splitlines()
    assert lines[0] == "machine"
    assert f"  ok       inbox: {instance.inbox}" in lines
    assert lines[lines.index("  note     process: no daemon is running") + 1].startswith("           to do: start it")
    assert any(line.startswith("  ok       voice: espeak ") for line in lines)
    assert lines[-1].startswith("no problems; ")


def test_while_the_daemon_runs(new_instance: NewInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = new_instance(PLAIN).start()
    assert instance.process
    process = instance.process.pid
    assert findings(instance)["daemon.process"]["text"] == f"it runs (process {process})"
    started = started_at(process)
    assert started is not None and abs(time.time() - started) < PATIENCE_SECONDS
    monkeypatch.setattr(running, "_installed_at", lambda: started + 1)
    (finding,) = daemon_findings(instance.folder / "state")
    assert (finding.status, finding.cure[:14]) == ("note", "start it again")
    assert finding.text.endswith(", and atenea has changed since")
    instance.stop()
    (finding,) = daemon_findings(instance.folder / "state")
    assert finding.text == "no daemon is running"


def test_a_daemon_that_this_user_may_not_talk_to() -> None:
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        state = Path(folder)
        state.chmod(0o755)
        listener.bind(str(state / SOCKET))
        (state / SOCKET).chmod(0)
        listener.listen()
        with unprivileged():
            (finding,) = daemon_findings(state)
    assert (finding.status, finding.text) == ("note", "this user may not talk to the daemon")
    assert finding.cure == f"join the group that owns the socket in {state}"


def test_a_daemon_that_cannot_be_reached(tmp_path: Path) -> None:
    """One that takes no more connections."""
    with ExitStack() as waiting:
        listener = waiting.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / SOCKET))
        listener.listen(0)
        waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / SOCKET))
        (finding,) = daemon_findings(tmp_path)
    assert (finding.status, finding.text, finding.cure) == (
        "note",
        "the daemon cannot be reached: Resource temporarily unavailable",
        "look at its log",
    )


def test_a_ledger_that_another_program_has_locked(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("PRAGMA journal_mode = WAL")
        holder.execute("CREATE TABLE jobs (id)")
        (finding,) = ledger_findings(tmp_path)
        assert (finding.status, finding.text, finding.cure) == (
            "note",
            f"{path}: another program has locked the ledger; it goes on when that lets go",
            f"end the program that has {path} open",
        )
    assert [finding.status for finding in ledger_findings(tmp_path)] == ["ok"]


def test_a_configuration_that_this_user_may_not_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0)
        monkeypatch.setattr(places, "SERVICE_FILE", closed / "atenea.toml")
        monkeypatch.chdir("/")
        with unprivileged():
            (finding,) = read_configuration(None).findings
    assert (finding.status, finding.text) == ("problem", f"{closed}/atenea.toml: cannot be read: Permission denied")


def test_a_broken_configuration(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "atenea.toml").write_text("[pahts]\n[limits]\nfile_bytes = 'many'\n")
    done = instance.atenea("doctor", code=1)
    file = instance.folder / "atenea.toml"
    assert f"  problem  file: {file}: pahts: unknown key\n           to do: did you mean 'paths'?\n" in done.stdout
    assert "limits.file_bytes: should be a valid integer" in done.stdout
    assert done.stdout.endswith("2 problems: jobs would fail; 1 to know of\n") and done.stderr == ""
    file.unlink()
    (finding,) = read_configuration(file).findings
    assert (finding.text, finding.cure) == (f"{file}: cannot be read: No such file or directory", "see --config")


def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    file, env = tmp_path / "atenea.toml", tmp_path / "atenea.env"
    file.touch()
    env.write_text(f"OPENAI_API_KEY={KEY}\n")
    env.chmod(0o600)
    assert read_configuration(file).secrets == {"OPENAI_API_KEY": KEY}
    env.chmod(0o644)
    read = read_configuration(file)
    assert read.config and not read.secrets
    assert [(finding.status, finding.check, finding.cure) for finding in read.findings] == [
        ("ok", "file", ""),
        ("problem", "secrets", f"run: chmod 600 {env}"),
    ]


def test_a_key_that_the_server_refuses_is_not_shown(new_instance: NewInstance) -> None:
    with SpeechServer(key="sk-another", models=[{"id": "tts-1"}]) as server:
        options = f"[tts]\nplugin = 'openai'\n[tts.openai]\nmodel = 'tts-1'\nbase_url = '{server.base_url}'\n"
        instance = new_instance(options + PLAIN, OPENAI_API_KEY=KEY)
        shown = instance.atenea("doctor", code=1)
    assert server.authorizations == {f"Bearer {KEY}"}
    assert (
        f"problem  server: 127.0.0.1:{server.port} refuses 'tts-1' with status 401: "
        "Incorrect API key provided: Bearer [secret]\n"
        "           to do: put a valid OPENAI_API_KEY into atenea.env\n"
    ) in shown.stdout
    assert KEY not in shown.stdout + shown.stderr


def test_as_a_user_who_may_not_do_everything(new_instance: NewInstance) -> None:
    """Root without its capabilities is one, and may still run this Python."""
    instance = new_instance(PLAIN)
    instance.outbox.chmod(0)
    command = instance.command("doctor", "--json", "--config", str(instance.folder / "atenea.toml"))
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=instance.folder)
    instance.outbox.chmod(0o755)
    assert done.returncode == 1, done.stderr
    problems = [finding for finding in json.loads(done.stdout)["findings"] if finding["status"] == "problem"]
    assert [finding["check"] for finding in problems] == ["folders.outbox"]
    assert f"{instance.outbox} cannot be read and written by " in problems[0]["text"]
