"""A ledger that is damaged, gone or locked: it is mended or waited for, and every job is still done exactly once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from faults import damage
from faults.damage import SEEN, UNSEEN, Damage
from faults.history import fill
from stock import Jobs
from structlog.testing import capture_logs
from system.conftest import new_instance
from system.gates import CONFIG, Gates
from system.instance import PATIENCE_SECONDS, Instance, NewInstance, wait_until

from atenea.control import ask, look
from atenea.doctor.ledger import ledger_findings
from atenea.errors import AteneaError, ExitCode
from atenea.job_record import RECORD, read_record
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.ledger_mending import damaged_ledgers, open_ledger
from atenea.places import Folders, Places
from atenea.rows import JobRow

__all__ = ["new_instance"]

ENDED = {"done": "done", "moved": "done", "refused": "failed", "unwanted": "cancelled"}
"""Jobs that must not be done again, and how they ended."""

UNFINISHED = ("rendering", "next", "again")


def every_state(instance: Instance) -> Gates:
    """Jobs in every state; what is unfinished waits at the gate of its render."""
    gates = Gates(instance)
    gates.open("tts", "audio", "render", "post")
    instance.start()
    for name in ("done", "moved"):
        instance.drop(f"{name}.txt", f"This is {name}.")
        instance.wait_for_state(name, "done")
    damage.settle(instance.folder / "state" / LEDGER)
    for path in instance.outbox.glob("moved.*"):
        path.unlink()
    gates.close("render")
    instance.drop("refused.toml", "nonsense = 1\n")
    instance.wait_for_state("refused", "failed")
    for number, name in enumerate(("unwanted", "again"), 3):
        instance.drop(f"{name}.txt", f"This is {name}.")
        gates.wait("render", number)
        instance.atenea("cancel", name)
        instance.wait_for_state(name, "cancelled")
    instance.drop("rendering.txt", "This is rendering.")
    instance.drop("next.txt", "This is next.")
    gates.wait("render", 6)
    instance.atenea("retry", "again")
    instance.wait_for_job("again", lambda job: job["state"] == "audio" or job["stage"] is None, "to be queued again")
    return gates


def killed(instance: Instance) -> Path:
    """End the daemon; where its ledger is."""
    instance.stop(signal.SIGKILL)
    return instance.folder / "state" / LEDGER


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a daemon that was killed with jobs in every state."""
    instance = Instance(tmp_path_factory.mktemp("history") / ".", CONFIG)
    every_state(instance)
    return killed(instance).parent


@pytest.fixture
def state(history: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(history, tmp_path / "state", ignore=shutil.ignore_patterns("*.sock")))


def ended(ledger: Ledger) -> dict[str, JobRow]:
    return {job.name: job for job in ledger.finished(-1)}


@contextmanager
def opened(state: Path) -> Iterator[Ledger]:
    with closing(open_ledger(state)) as ledger:
        yield ledger
    with closing(sqlite3.connect(state / LEDGER)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("harm", [*SEEN, *UNSEEN], ids=lambda harm: harm.__name__)
def test_no_job_that_ended_is_begun_anew_and_no_other_is_lost(state: Path, harm: Damage) -> None:
    with closing(Ledger(Path(shutil.copytree(state, state.with_name("before"))) / LEDGER)) as sound:
        before = ended(sound)
    assert {name: job.state for name, job in before.items()} == ENDED
    unfinished = list(UNFINISHED)
    harm(state / LEDGER)
    left = (state / LEDGER).read_bytes() if (state / LEDGER).exists() else None
    with opened(state) as ledger:
        found = ended(ledger)
        if harm in UNSEEN and found.pop("again", None):  # that it was retried may be lost with the last changes
            unfinished.remove("again")
        assert found == before
        active = {job.name for job in ledger.active()}
        folders = [folder for folder in (state / "jobs").iterdir() if not ledger.knows(folder.name)]
        again = {path.stem for folder in folders for path in (folder / "original").iterdir()}
        assert sorted([*active, *again]) == sorted(unfinished)
        assert [folder for folder in folders if (folder / "work").exists()] == []
        assert ledger.new_ids(1)[0] > max(job.id for job in before.values())
    notes = damaged_ledgers(state)
    assert len(notes) == (harm in SEEN)
    if harm in SEEN:
        kept = notes[0].with_suffix("")
        assert (kept.read_bytes() if kept.exists() else None) == left
        told = notes[0].read_text()
        assert all(f"({name}." in told for name in again)
        (finding,) = (finding for finding in ledger_findings(state) if finding.check == "damage")
        assert (finding.status, str(notes[0]) in finding.text) == ("note", True)


def test_what_can_be_read_is_kept(state: Path) -> None:
    damage.a_destroyed_index(state / LEDGER)
    with opened(state) as ledger:
        assert {job.name for job in ledger.active()} == set(UNFINISHED)
        assert [job.position for job in ledger.active() if job.name == "rendering"] == [3]
    assert "Begun anew" not in damaged_ledgers(state)[0].read_text()


@pytest.mark.parametrize("table", ["jobs", "steps"])
def test_of_a_long_history_only_the_damaged_page_is_lost(tmp_path: Path, table: str) -> None:
    fill(tmp_path / LEDGER, 2000)
    damage.damage_page(tmp_path / LEDGER, table, leaf=True)
    with opened(tmp_path) as ledger:
        left = {job.id for job in ledger.finished(-1)}
        holed = {job_id for job_id in left if len(ledger.steps(job_id)) < 6}
    lost = {f"0{number:010d}" for number in range(2000)} - left
    assert 0 < len(lost | holed) < 30
    told = damaged_ledgers(tmp_path)[0].read_text()
    for what, jobs in (
        ("Lost, and their folders were gone", lost),
        ("Ended, and some of their stages are lost", holed),
    ):
        assert (what in told, ", ".join(sorted(jobs)) in told) == (bool(jobs), True)


def test_a_job_that_was_about_to_appear_is_so_still(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    jobs = Jobs(ledger)
    job = jobs.to_publish()
    (tmp_path / "jobs" / job.id).mkdir(parents=True)
    jobs.begin(job)
    ledger.publish(jobs.now(job), stem="hello", hashes={".mp4": "h"})
    expected = jobs.now(job), ledger.steps(job.id)
    ledger.close()
    damage.gone(tmp_path / LEDGER)
    with opened(tmp_path) as mended:
        assert (mended.job(job.id), mended.steps(job.id)) == expected
        mended.finish(mended.begin(expected[0], expected[1][-1]), expected[0], "done")
        record = read_record(tmp_path / "jobs" / job.id)
        assert record
        assert record["job"]["state"] == "done"


def test_a_retried_job_has_no_record_of_its_end(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / LEDGER)) as ledger:
        job = Jobs(ledger).take()
        folder = tmp_path / "jobs" / job.id
        folder.mkdir(parents=True)
        ledger.cancel(job)
        assert os.listdir(folder) == [RECORD]
        ledger.retry(Jobs(ledger).now(job))
        assert os.listdir(folder) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"job": {}}', b"[]", b"[" * 100_000])
def test_a_job_that_may_be_done_is_put_aside(state: Path, content: bytes) -> None:
    """Its record is damaged too, so nobody knows; another job's record is nothing to go by either."""
    with closing(Ledger(state / LEDGER)) as ledger:
        job = ended(ledger)["done"]
    (state / "jobs" / job.id / RECORD).write_bytes(content)
    damage.gone(state / LEDGER)
    with capture_logs() as logs, opened(state) as ledger:
        assert not ledger.knows(job.id)
    assert (state / "doubtful" / job.id / "original" / "done.txt").exists()
    assert not (state / "jobs" / job.id).exists()
    assert f"wait in doubtful/; submit them again if no video is there: {job.id} (done.txt)." in (
        damaged_ledgers(state)[0].read_text()
    )
    assert "the ledger lost a job that may be done; it is not begun anew" in [line["event"] for line in logs]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *(("job", "priority", 1 << 70), ("job", "name", ["a"]), ("job", "created", "soon")),
        *(("steps", "options", "{"), ("steps", "options", "[]"), ("steps", "result", "3")),
        *(("attempts", "started", {}), ("attempts", None, "no row")),
    ],
)
def test_a_record_with_a_wrong_value_is_no_record(state: Path, table: str, column: str | None, value: object) -> None:
    with closing(Ledger(state / LEDGER)) as ledger:
        job = ended(ledger)["done"]
    file = state / "jobs" / job.id / RECORD
    record = json.loads(file.read_text())
    rows = [record["job"]] if table == "job" else record[table]
    if column:
        rows[0][column] = value
    else:
        rows[0] = value
    file.write_text(json.dumps(record))
    damage.gone(state / LEDGER)
    with opened(state) as ledger:
        assert {name: job.state for name, job in ended(ledger).items()} == {
            name: state for name, state in ENDED.items() if name != "done"
        }
    assert (state / "doubtful" / job.id / "original" / "done.txt").exists()


def test_a_job_is_put_aside_beside_another_of_its_name(state: Path) -> None:
    with closing(Ledger(state / LEDGER)) as ledger:
        job = ended(ledger)["done"]
    for name in (job.id, f"{job.id}-2"):
        (state / "doubtful" / name).mkdir(parents=True)
        (state / "doubtful" / name / "kept").touch()
    (state / "jobs" / job.id / RECORD).write_text("{")
    damage.gone(state / LEDGER)
    with opened(state) as ledger:
        assert not ledger.knows(job.id)
    assert (state / "doubtful" / f"{job.id}-3" / "original" / "done.txt").exists()
    assert os.listdir(state / "doubtful" / job.id) == ["kept"]


@pytest.mark.parametrize("value", ["", "garbage", "nan", "inf"])
def test_a_setting_that_makes_no_sense_is_lost(tmp_path: Path, value: str) -> None:
    with closing(Ledger(tmp_path / LEDGER)) as ledger:
        ledger.pause(True)
        ledger.doubt_clock(5.0)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as db, db:
        db.execute("UPDATE settings SET value = ? WHERE name = 'clock doubted until'", (value,))
        db.execute("INSERT INTO settings VALUES ('paus\x01d', 'yes')")
    damage.damage_page(tmp_path / LEDGER, "sqlite_autoindex_settings_1")
    with opened(tmp_path) as ledger:
        assert (ledger.paused, ledger.clock_doubted_until) == (True, 0.0)
        assert ledger._value("SELECT count(*) FROM settings") == 1


def test_a_job_from_before_there_were_records_is_done_by_its_log(state: Path) -> None:
    with closing(Ledger(state / LEDGER)) as ledger:
        job = ended(ledger)["done"]
    (state / "jobs" / job.id / RECORD).unlink()
    damage.gone(state / LEDGER)
    with opened(state) as ledger:
        assert not ledger.knows(job.id)
    assert (state / "doubtful" / job.id).exists()


@pytest.mark.parametrize("last", ["ledger.sqlite3-wal", "ledger.sqlite3", "ledger.sqlite3.mended-.*"])
def test_a_mending_that_a_crash_cut_short_is_finished(state: Path, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename was the first that was not done."""
    damage.zeroed_header(state / LEDGER)
    Path(f"{state / LEDGER}-wal").write_bytes(b"torn" * 2000)

    def rename(source: str | Path, target: str | Path) -> None:
        if re.fullmatch(last, Path(source).name):
            raise KeyboardInterrupt
        real(source, target)

    real = os.rename
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(KeyboardInterrupt):
        open_ledger(state)
    monkeypatch.undo()
    with opened(state) as ledger:
        assert {name: job.state for name, job in ended(ledger).items()} == ENDED
    (note,) = damaged_ledgers(state)
    assert sorted(path.name for path in state.glob(f"{LEDGER}?*")) == sorted([note.name, note.stem, f"{note.stem}-wal"])


def test_a_newer_ledger_is_no_damaged_one(state: Path) -> None:
    with closing(Ledger(state / LEDGER)) as ledger:
        ledger._value("PRAGMA user_version = 99")
    with pytest.raises(AteneaError, match=r"was written by a newer atenea .* install that version again$"):
        open_ledger(state)
    assert damaged_ledgers(state) == []
    (finding,) = ledger_findings(state)
    assert (finding.status, finding.cure) == ("problem", "install that version again")


def test_looking_at_a_damaged_ledger_changes_nothing(state: Path) -> None:
    damage.zeroed_header(state / LEDGER)
    before = sorted(os.listdir(state))
    (finding,) = ledger_findings(state)
    assert finding.status == "problem"
    assert finding.text == f"{state / LEDGER} is damaged: file is not a database"
    assert sorted(os.listdir(state)) == before


@pytest.mark.parametrize("read", [ask, look])
def test_a_command_leaves_an_empty_ledger_to_the_daemon(state: Path, read: Callable[..., object]) -> None:
    damage.empty(state / LEDGER)
    places = Places(Folders(state=state, outbox=state.with_name("outbox")))
    with pytest.raises(AteneaError) as caught:
        read(places, "jobs")
    told = f"{state / LEDGER}: is empty, though there are jobs; the daemon mends it: atenea run"
    assert (str(caught.value), caught.value.exit_code) == (told, ExitCode.FAILED)
    assert (state / LEDGER).read_bytes() == b""
    with opened(state) as ledger:
        assert {name: job.state for name, job in ended(ledger).items()} == ENDED
    assert "(it is empty)" in damaged_ledgers(state)[0].read_text()


def test_a_state_folder_that_nobody_has_used_has_no_damaged_ledger(tmp_path: Path) -> None:
    (tmp_path / LEDGER).touch()
    with opened(tmp_path) as ledger:
        assert ledger.counts() == {}
    assert damaged_ledgers(tmp_path) == []


# With a real daemon


def test_a_daemon_goes_on_after_each_damage_and_does_every_job_once(new_instance: NewInstance) -> None:
    instance: Instance = new_instance(CONFIG)
    gates = every_state(instance)
    outputs = instance.outputs()
    for harm in (damage.destroyed_jobs, damage.without_its_log, damage.zeroed_header):
        harm(killed(instance))
        instance.start()
        states = {job["name"]: job["state"] for job in instance.ask("jobs")["jobs"] if job["finished"]}
        assert states == ENDED
        assert instance.outputs() == outputs
    gates.open("render")
    for name in UNFINISHED:
        instance.wait_for_state(name, "done")
    posted = Counter(call["name"] for call in gates.calls("post"))
    assert posted == {"done": 1, "moved": 1, **dict.fromkeys(UNFINISHED, 1)}
    assert Counter(call["name"] for call in gates.calls("render"))["done"] == 1
    names = [f"{name}.{suffix}" for name in ("done", *UNFINISHED) for suffix in ("json", "mp4", "note.txt")]
    assert instance.outputs() == sorted([*names, "refused.error.txt"])
    assert len(instance.ask("jobs")["jobs"]) == len(ENDED) + len(UNFINISHED)
    assert instance.stop() == 0


def test_a_ledger_that_is_damaged_under_a_running_daemon_is_mended(new_instance: NewInstance) -> None:
    instance: Instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    process = instance.process
    assert process
    for name in ("steps", "sqlite_autoindex_steps_1"):
        damage.damage_page(instance.folder / "state" / LEDGER, name)
    gates.open("render")
    instance.drop("second.txt", "Hello.")  # the ledger must be read from the disk
    instance.output("hello.mp4")
    instance.output("second.mp4")
    instance.wait_for_state("second", "done")
    assert process.poll() is None
    assert len(instance.events("the ledger is mended")) == 1
    assert len(instance.ask("jobs")["jobs"]) == 2
    assert instance.stop() == 0


_TOLD_TO_STOP = """
import os, signal
from atenea import daemon
from atenea.cli import main
from atenea.ledger_mending import damaged_ledgers

def open_ledger(state):
    ledger = really(state)
    if damaged_ledgers(state):
        os.kill(os.getpid(), signal.SIGTERM)
    return ledger

really, daemon.open_ledger = daemon.open_ledger, open_ledger
main()
"""
"""A daemon that is told to stop while it mends its ledger."""


def test_a_daemon_that_is_told_to_stop_while_it_mends_stops(
    new_instance: NewInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance: Instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    with monkeypatch.context() as patch:
        patch.setattr(instance, "command", lambda *arguments: [sys.executable, "-c", _TOLD_TO_STOP, *arguments])
        instance.start()
    process = instance.process
    assert process
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    for name in ("steps", "sqlite_autoindex_steps_1"):
        damage.damage_page(instance.folder / "state" / LEDGER, name)
    gates.open("render")
    instance.drop("second.txt", "Hello.")
    assert process.wait(PATIENCE_SECONDS) == 0
    assert (len(instance.events("the ledger is mended")), len(instance.events("ready"))) == (1, 1)
    instance.start()
    instance.wait_for_state("hello", "done")
    instance.wait_for_state("second", "done")
    assert instance.stop() == 0


_HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the ledger's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("end\n")


def test_a_daemon_waits_for_a_program_that_has_locked_the_ledger(new_instance: NewInstance) -> None:
    instance: Instance = new_instance(CONFIG)
    path = instance.folder / "state" / LEDGER
    sentence = f"{path}: another program has locked the ledger; it goes on when that lets go"
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    with locked(path):
        gates.open("render")
        instance.drop("second.txt", "Hello.")
        instance.wait_for_job("hello", lambda job: job["progress"] == sentence, "to say what it waits for")
        assert instance.atenea("pause", code=1).stderr == f"atenea: {sentence}\n"
        wait_until(lambda: instance.events("jobs cannot be taken now; it is tried again"), "the inbox to wait")
    for name in ("hello", "second"):
        instance.wait_for_state(name, "done")
    assert Counter((call["stage"], call["name"]) for call in gates.calls())["render", "hello"] == 1
    assert [attempt["outcome"] for attempt in instance.job("hello")["attempts"]] == ["done"] * 7

    gates.close("render")
    instance.drop("third.txt", "Hello.")
    gates.wait("render", 3)
    killed(instance)
    with locked(path):
        with instance.log.open("ab") as log:
            instance.process = subprocess.Popen(
                instance.command("run", "--config", str(instance.folder / "atenea.toml")), stdout=log, stderr=log
            )
        wait_until(lambda: instance.events("the start waits for another program"), "the start to wait")
        assert len(instance.events("ready")) == 1
    gates.open("render")
    instance.wait_for_state("third", "done")
    assert [json.dumps(event) for event in instance.events() if "Traceback" in str(event)] == []
    assert instance.stop() == 0
