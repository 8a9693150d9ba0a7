"""What is in the files, and how they are called."""

from __future__ import annotations

import os
import time

import pytest
from system.instance import Instance, NewInstance, wait_until
from wild.tools import SETTLE_SECONDS, assert_once, refusal, said, taken, visible, wild


def test_0_bytes(inbox: Instance) -> None:
    """Refused ten times as late as others: many programs make an empty file long before they fill it."""
    began = time.monotonic()
    inbox.drop("empty.txt", b"")
    assert refusal(inbox, "empty") == "empty.txt: has no text in it; write what is to be spoken"
    assert time.monotonic() - began > 9 * SETTLE_SECONDS
    assert visible(inbox.inbox, "empty") == []


def test_0_bytes_that_are_filled_later(inbox: Instance) -> None:
    path = inbox.drop("filled.txt", b"")
    inbox.drop("before-filled.txt", "Another job, which settles no sooner.")
    wait_until(lambda: taken(inbox, "before-filled"), "the empty file to have been looked at")
    path.write_text("Hello.")
    assert_once(inbox, "filled", "Hello.")


@pytest.mark.parametrize("blanks", [" \n\t\r\n", "\u00a0\u2003"], ids=["ASCII", "others"])
def test_only_blanks(inbox: Instance, blanks: str) -> None:
    name = f"blank-{len(blanks)}"
    inbox.drop(f"{name}.txt", blanks)
    assert refusal(inbox, name) == f"{name}.txt: has no text in it; write what is to be spoken"


def test_blanks_whose_writer_is_slow(inbox: Instance) -> None:
    with (inbox.inbox / "slow-blank.txt").open("w") as upload:
        upload.write("\n\n")
        upload.flush()
        time.sleep(5 * SETTLE_SECONDS)
        upload.write("Hello.")
    assert_once(inbox, "slow-blank", "Hello.")


def test_a_job_file_whose_writer_is_slow(inbox: Instance) -> None:
    with (inbox.inbox / "slow-toml.toml").open("w") as upload:
        upload.write('text = "Hel')
        upload.flush()
        time.sleep(5 * SETTLE_SECONDS)
        upload.write('lo."\n')
    assert_once(inbox, "slow-toml", "Hello.")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bom", b"\xef\xbb\xbfHola, se\xc3\xb1or."),
        ("crlf", "Hola,\r\nseñor.".encode()),
        ("utf8", "Hola 你好 🎬".encode()),
    ],
)
def test_what_is_utf_8(inbox: Instance, name: str, data: bytes) -> None:
    inbox.drop(f"{name}.txt", data)
    assert_once(inbox, name, data.decode("utf-8-sig").replace("\r\n", "\n"))


@pytest.mark.parametrize(
    ("name", "data", "answer"),
    [
        ("utf16", "Hola".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("latin1", b"Hola, se\xf1or.", "line 1 is not UTF-8 (byte 0xf1); save it as UTF-8"),
        ("nul", b"Hola\x00", "holds NUL bytes, so it is no text; save it as UTF-8 text"),
    ],
)
def test_what_is_not_utf_8(inbox: Instance, name: str, data: bytes, answer: str) -> None:
    inbox.drop(f"{name}.txt", data)
    assert refusal(inbox, name) == f"{name}.txt: {answer}"
    assert visible(inbox.inbox, name) == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [(b"latin-\xe9", "latin-_"), (b"two\nlines", "two_lines"), (b"n" * 251, "n" * 200), (b"-rf *", "-rf *")],
    ids=["not UTF-8", "newline", "255 bytes", "option"],
)
def test_names(inbox: Instance, name: bytes, stem: str) -> None:
    path = os.path.join(os.fsencode(inbox.inbox), name + b".txt")
    with open(path, "w") as file:
        file.write("Hello.")
    assert said(inbox, stem) == "Hello."
    assert not os.path.exists(path)


def test_two_jobs_of_one_name(inbox: Instance) -> None:
    inbox.drop("same.toml", 'text = "From the TOML file."')
    inbox.drop("same.txt", "From the text.")
    texts = {said(inbox, "same"), said(inbox, "same-2")}
    assert texts == {"From the TOML file.", "From the text."}
    assert taken(inbox, "same") == 2


def test_files_that_exist_before_the_start(new_instance: NewInstance) -> None:
    instance = wild(new_instance)
    for number in range(3):
        instance.drop(f"early-{number}.txt", f"Early {number}.")
    instance.start()
    for number in range(3):
        assert_once(instance, f"early-{number}", f"Early {number}.")


def test_100_000_unrelated_files(new_instance: NewInstance) -> None:
    instance = wild(new_instance)
    for number in range(100_000):
        os.close(os.open(instance.inbox / f"IMG_{number:06}.raw", os.O_CREAT | os.O_WRONLY))
    instance.start()
    instance.drop("needle.txt", "Found.")
    assert_once(instance, "needle", "Found.")
    assert len(os.listdir(instance.inbox)) == 100_000
