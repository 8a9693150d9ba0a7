"""Programs that write the final name themselves: slowly, in pieces, through a map, or with a picture that is late."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.gates import CONFIG, Gates
from system.instance import Instance, NewInstance, wait_until
from wild.tools import (
    SETTLE_SECONDS,
    SLOW_SETTLING,
    assert_once,
    avatar,
    mounted,
    picture,
    refusal,
    rests,
    said,
    sha256,
    taken,
    visible,
    wild,
)

STALL = 5 * SETTLE_SECONDS
HALVES = ("The first half, ", "and the second.")
WHOLE = "".join(HALVES)
SHORT_PAUSE = SLOW_SETTLING / 20


@pytest.fixture
def elsewhere(new_instance: NewInstance) -> Iterator[Instance]:
    """An instance whose inbox is another mount than its state, so that jobs are copied."""
    instance = wild(new_instance)
    with mounted(instance.inbox, "-t", "tmpfs", "tmpfs"):
        yield instance.start()
        instance.stop()


def write_with_pause(path: Path, seconds: float) -> None:
    with path.open("w", buffering=1) as upload:
        for half in HALVES:
            upload.write(half)
            upload.flush()
            time.sleep(seconds)


def test_a_writer_that_pauses(inbox: Instance) -> None:
    write_with_pause(inbox.inbox / "pauses.txt", STALL)
    assert_once(inbox, "pauses", WHOLE)


def test_a_writer_that_pauses_on_another_mount(elsewhere: Instance) -> None:
    """The file is copied, then hidden, not removed, as long as its writer has it open."""
    with (elsewhere.inbox / "pauses.txt").open("w") as upload:
        upload.write(HALVES[0])
        upload.flush()
        wait_until(lambda: rests(elsewhere.inbox), "the file to be hidden")
        assert visible(elsewhere.inbox) == []
        time.sleep(STALL)
        assert elsewhere.outputs() == []
        upload.write(HALVES[1])
    assert_once(elsewhere, "pauses", WHOLE)


def test_a_writer_that_outlives_the_daemon_on_another_mount(elsewhere: Instance) -> None:
    with (elsewhere.inbox / "outlives.txt").open("w") as upload:
        upload.write(HALVES[0])
        upload.flush()
        wait_until(lambda: rests(elsewhere.inbox), "the file to be hidden")
        wait_until(lambda: taken(elsewhere, "outlives"), "the log to tell of it")
        elsewhere.stop(9)
        upload.write(HALVES[1])
    elsewhere.start()
    assert_once(elsewhere, "outlives", WHOLE)


def test_a_writer_that_opens_and_closes_repeatedly(patient: Instance) -> None:
    path = patient.inbox / "pieces.txt"
    for number in range(25):
        with path.open("a") as upload:
            upload.write(f"{number} ")
        time.sleep(SHORT_PAUSE)
    assert_once(patient, "pieces", " ".join(map(str, range(25))))


def test_a_writer_that_preallocates_the_final_size(inbox: Instance) -> None:
    path = inbox.inbox / "preallocated.txt"
    with path.open("wb", buffering=0) as upload:
        os.posix_fallocate(upload.fileno(), 0, len(WHOLE))
        wait_until(lambda: taken(inbox, "preallocated"), "the zeros to settle")
        time.sleep(STALL)
        upload.write(WHOLE.encode())
    assert_once(inbox, "preallocated", WHOLE)


def test_a_writer_through_a_memory_map(inbox: Instance) -> None:
    """The map's file is closed, and stores into a page change no time stamp."""
    with (inbox.inbox / "mapped.txt").open("w+b") as upload:
        upload.truncate(len(WHOLE))
        memory = mmap.mmap(upload.fileno(), len(WHOLE))
    for position, half in ((0, HALVES[0]), (len(HALVES[0]), HALVES[1])):
        memory[position : position + len(half)] = half.encode()
        time.sleep(STALL)
    wait_until(lambda: taken(inbox, "mapped"), "the file to be taken")
    memory.close()
    assert_once(inbox, "mapped", WHOLE)


def test_a_writer_that_never_closes(new_instance: NewInstance) -> None:
    """It is waited for as long as for any file that does not come."""
    instance = wild(new_instance, "[limits]\nwait_for_files_seconds = 1\n").start()
    with (instance.inbox / "open.txt").open("w") as upload:
        upload.write(WHOLE)
        upload.flush()
        assert said(instance, "open") == WHOLE
    assert len(instance.events("somebody still has the file open for writing; the job waits")) == 1


def test_an_upload_that_goes_on_after_its_job_was_refused(new_instance: NewInstance) -> None:
    """Where nobody can be seen to have it open; a daemon that is not the files' owner, say."""
    instance = wild(new_instance).start()
    upload = os.open(instance.inbox / "refused.txt", os.O_WRONLY | os.O_CREAT)
    os.write(upload, b" \n")
    os.close(upload)
    assert refusal(instance, "refused").startswith("refused.txt: has no text in it")
    [original] = (instance.folder / "state" / "jobs").glob("*/original/refused.txt")
    with original.open("w") as late:  # the same file: whoever had it open writes here
        late.write(WHOLE)
    assert_said_after_refusal(instance, "refused")


def assert_said_after_refusal(instance: Instance, name: str) -> None:
    assert said(instance, name) == WHOLE
    assert taken(instance, name) == 1
    wait_until(lambda: not (instance.outbox / f"{name}.error.txt").exists(), "the answer to go")


def test_a_picture_just_after_its_text(patient: Instance) -> None:
    face = picture()
    patient.drop("face.txt", "Hello.")
    patient.drop("face.png", face)
    assert_once(patient, "face", "Hello.")
    assert avatar(patient, "face") == sha256(face)


def test_a_picture_that_is_still_uploaded_under_another_name(patient: Instance) -> None:
    face = picture()
    part = patient.inbox / ".syncthing.slow.png.tmp"
    part.write_bytes(b"")
    patient.drop("slow.txt", "Hello.")
    size = len(face) // 25 + 1
    for byte in range(0, len(face), size):
        with part.open("ab") as upload:
            upload.write(face[byte : byte + size])
        time.sleep(SHORT_PAUSE)
    part.rename(patient.inbox / "slow.png")
    assert_once(patient, "slow", "Hello.")
    assert avatar(patient, "slow") == sha256(face)


@pytest.mark.parametrize("mount", ["same mount", "another mount"])
def test_a_picture_that_comes_when_its_text_was_taken(new_instance: NewInstance, tmp_path: Path, mount: str) -> None:
    """As long as nothing is made of the text yet: a job that is refused for want of a picture, say."""
    instance = wild(new_instance, "[post]\nplugins = ['shy']\n", settle=0.5)
    shy = "@hookimpl\ndef check(job, ctx):\n    return None if job.avatar else ['needs an avatar']\n"
    instance.plugin("shy", f"{shy}@hookimpl\ndef post(job, video, ctx): ...\n")
    if mount == "same mount":
        instance.start()
        assert_late_picture(instance)
        return
    with mounted(instance.inbox, "-t", "tmpfs", "tmpfs"):
        instance.start()
        assert_late_picture(instance)
        instance.stop()


def assert_late_picture(instance: Instance) -> None:
    instance.drop("late.txt", "Hello.")
    assert "needs an avatar" in refusal(instance, "late")
    instance.drop("late.png", picture())
    assert avatar(instance, "late") == sha256(picture())
    assert_once(instance, "late", "Hello.")


def test_a_stray_touch_while_queued(new_instance: NewInstance) -> None:
    """Of a file with a second link outside: the job starts over, and is still one."""
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.close("check")
    gates.open("tts", "audio", "render", "post")
    instance.start()
    draft = instance.folder / "draft.txt"
    draft.write_text("Hello.")
    os.link(draft, instance.inbox / "touched.txt")
    gates.wait("check")
    draft.touch()
    gates.open("check")
    instance.output("touched.mp4")
    assert [call["text"] for call in gates.calls("tts")] == ["Hello."]
    assert taken(instance, "touched") == 1


def test_dropped_again_while_its_job_runs(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("again.txt", "First.")
    gates.wait("render")
    instance.drop("again.txt", "Second.")
    wait_until(lambda: taken(instance, "again") == 2, "the second one")
    gates.open("render")
    for name, text in (("again", "First."), ("again-2", "Second.")):
        instance.output(f"{name}.mp4")
        assert (instance.outbox / f"{name}.note.txt").read_text() == text
