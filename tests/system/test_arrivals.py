"""What people and programs do to an inbox: slow uploads, files that come late or never, folders, hostile names."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from system.gates import CONFIG, Gates
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

STUB = "[render]\nplugin = 'stub'\n"


@pytest.fixture
def stub(new_instance: NewInstance) -> Instance:
    """An instance that renders a small grey picture."""
    instance = new_instance(STUB)
    instance.plugin("stub", RENDER_STUB)
    return instance.start()


def report(instance: Instance, name: str) -> dict[str, object]:
    instance.output(f"{name}.mp4")
    found: dict[str, object] = json.loads((instance.outbox / f"{name}.json").read_text())
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def picture(colour: str = "red", size: int = 64) -> bytes:
    """A PNG that is as large as it looks."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG", compress_level=0)
    return file.getvalue()


def test_an_upload_that_goes_on_after_the_file_was_taken_starts_the_job_over(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.close("check")
    gates.open("tts", "audio", "render", "post")
    instance.start()
    with (instance.inbox / "speech.txt").open("wb", buffering=0) as upload:
        upload.write(b"The first half, ")
        assert gates.wait("check")["text"] == "The first half,"
        assert os.listdir(instance.inbox) == []
        upload.write(b"and the second.")
    gates.open("check")
    whole = "The first half, and the second."
    assert report(instance, "speech")["inputs"] == {"text": sha256(whole.encode())}
    assert [call["text"] for call in gates.calls("tts")] == [whole]
    assert len(instance.events("the file changed after it was taken; the job starts over")) == 1
    assert instance.outputs() == ["speech.json", "speech.mp4", "speech.note.txt"]


def test_a_named_avatar_that_arrives_late_and_slowly_is_used_whole(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[watch]\nsettle_seconds = 1\nrescan_seconds = 1\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    instance.drop("hello.toml", 'text = "Hello."\navatar = "ana.png"\n')
    [event] = wait_until(lambda: instance.events("job waits for files"), "the job to wait")
    assert event["files"] == ["ana.png"]
    assert instance.wait_for_state("hello", "queued")["waiting_for"] == ["ana.png"]
    content = picture(size=128)
    pieces = [content[start : start + 1024] for start in range(0, len(content), 1024)]
    assert len(pieces) > 40
    with (instance.inbox / "ana.png").open("wb", buffering=0) as upload:
        for piece in pieces:
            upload.write(piece)
            time.sleep(0.05)  # a slow line: two seconds and more in all
    assert report(instance, "hello")["inputs"] == {"text": sha256(b"Hello."), "avatar": sha256(content)}
    assert os.listdir(instance.inbox) == ["ana.png"]


def test_a_named_file_that_never_arrives_fails_the_job_with_its_name(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[limits]\nwait_for_files_seconds = 0.5\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    instance.drop("hello.toml", 'text = "Hello."\navatar = "ghost.png"\n')
    answer = instance.output("hello.error.txt").read_text()
    assert answer.splitlines()[0] == (
        "hello.toml: ghost.png did not arrive within 0.5 seconds;"
        " put it beside the job file or into the assets folder, then: atenea retry"
    )
    instance.wait_for_state("hello", "failed")
    instance.drop("ghost.png", picture())
    instance.atenea("retry", "hello")
    assert report(instance, "hello")["inputs"] == {"text": sha256(b"Hello."), "avatar": sha256(picture())}


def test_a_picture_of_the_same_stem_goes_with_its_text(stub: Instance) -> None:
    stub.drop("ana.png", picture())
    stub.drop("ana.txt", "I am Ana.")
    assert report(stub, "ana")["inputs"] == {"text": sha256(b"I am Ana."), "avatar": sha256(picture())}
    assert os.listdir(stub.inbox) == []


def test_a_job_folder_is_one_job(stub: Instance) -> None:
    folder = stub.folder / "interview"
    folder.mkdir()
    (folder / "face.png").write_bytes(picture())
    (folder / "words.txt").write_text("From a folder.")
    (folder / "job.toml").write_text('text_file = "words.txt"\navatar = "face.png"\npriority = 3\n')
    folder.rename(stub.inbox / "interview")
    found = report(stub, "interview")
    assert found["priority"] == 3
    assert found["inputs"] == {
        "text_file": sha256(b"From a folder."),
        "text": sha256(b"From a folder."),
        "avatar": sha256(picture()),
    }
    assert os.listdir(stub.inbox) == []


def test_a_folder_of_a_preset_gives_its_settings(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[presets.news]\npriority = 7\ntts.voice = 'en-us'\n")
    instance.plugin("stub", RENDER_STUB)
    (instance.inbox / "news").mkdir()
    instance.start()
    (instance.inbox / "news" / "today.txt").write_text("Today.")
    found = report(instance, "today")
    assert (found["preset"], found["priority"]) == ("news", 7)
    stages = found["stages"]
    assert isinstance(stages, list)
    assert stages[0]["options"]["voice"] == "en-us"
    assert os.listdir(instance.inbox) == ["news"]
    assert os.listdir(instance.inbox / "news") == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param(b"two\nlines.txt", "two_lines", id="newline"),
        pytest.param(b"caf\xe9.txt", "caf_", id="no UTF-8"),
        pytest.param(b"a" * 251 + b".txt", "a" * 200, id="255 bytes"),
        pytest.param(b"-rf.txt", "-rf", id="leading dash"),
        pytest.param(b"\x1b[31m $(reboot) '\".txt", "_[31m $(reboot) '\"", id="escapes and quotes"),
        pytest.param("señora 東京.txt".encode(), "señora 東京", id="other scripts"),
    ],
)
def test_hostile_names_become_safe_ones(stub: Instance, name: bytes, stem: str) -> None:
    Path(os.fsdecode(os.fsencode(stub.inbox) + b"/" + name)).write_text("Hello.")
    assert report(stub, stem)["name"] == stem
    assert stub.outputs() == sorted([f"{stem}.json", f"{stem}.mp4"])
    assert os.listdir(stub.inbox) == []
    job = stub.wait_for_state(stem, "done")
    assert [each["id"] for each in stub.ask("jobs")["jobs"]] == [job["id"]]
    listed = stub.atenea("jobs").stdout
    assert listed.startswith(f"{job['id']}\t{stem}\tdone\t")
    assert listed.count("\n") == 1
    assert stub.job(job["id"])["name"] == stem


def test_what_is_no_file_stays_and_is_told_once(stub: Instance) -> None:
    secret = stub.folder / "secret"
    secret.write_text("Do not read me out.")
    (stub.inbox / "link.txt").symlink_to(secret)
    os.mkfifo(stub.inbox / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(stub.inbox)  # its path may be longer than an address
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
    names = ["link.txt", "pipe.txt", "socket.txt"]
    for number in range(3):
        stub.drop(f"job{number}.txt", "Hello.")
        stub.output(f"job{number}.mp4")
    assert sorted(os.listdir(stub.inbox)) == names
    told = [entry["event"] for entry in stub.events() if entry["level"] == "warning"]
    assert sorted(told) == [
        f"{name!r} in the inbox is neither a file nor a folder: it stays where it is" for name in names
    ]
    assert secret.read_text() == "Do not read me out."


def test_many_writers_at_once_lose_nothing(stub: Instance) -> None:
    stub.atenea("pause")

    def write(writer: int) -> None:
        for number in range(50):
            stub.drop(f"{writer}-{number}.txt", f"{writer} {number}")

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    wait_until(lambda: len(stub.events("job accepted")) == 200, "all to be accepted")
    taken = stub.events("job taken")
    assert sorted(entry["file"] for entry in taken) == sorted(
        f"{writer}-{number}.txt" for writer in range(4) for number in range(50)
    )
    assert len({entry["job"] for entry in taken}) == 200
    assert os.listdir(stub.inbox) == []
