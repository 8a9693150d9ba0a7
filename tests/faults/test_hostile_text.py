"""Texts made to hurt whoever reads, speaks, times or shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from system.conftest import new_instance
from system.instance import RENDER_STUB, NewInstance

from atenea.errors import MistakesError
from atenea.jobfile import decode_text, parse_job_toml

__all__ = ["new_instance"]

MARKUP = [
    "<speak>Hello <break time='3s'/><audio src='/etc/passwd'>there</audio></speak>",
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><speak>Hello &b; there</speak>',
    "Hello [[h@l'oU]] there, [[_^_en]] {{x}} ${HOME} $(id) `id` %s%n",
    "Hello \x01+10S \x01A \x1b]0;title\x07 there",
    "Hello\u202e ereht\u2066 \u200b\u200d\ufeff there",
    "Hello " + "e" + "\u0301" * 2000 + " there",
    "Hello \U000e0041\ue000\uffff\U0010ffff there",
    "Hello " + "x" * 500 + " there",
    "Hello " + "1" * 300 + " there",
    "Hello " + "漢" * 40 + " there",
    "Hello " + "\U0001f468\u200d" * 60 + " there",
]

JOBS = 3
"""Over which they are spread."""


@pytest.mark.parametrize(
    "data", [b"\xed\xa0\x80 half a pair", b"\xed\xb0\x80", b"a\x00b", b"\xc0\x80", b"\xf8\x88\x80\x80\x80", b"\xff" * 9]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(MistakesError, match=r"^a\.txt: .*UTF-8"):
        decode_text(data, "a.txt")


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\UD8000000", "\\U00110000"])
def test_half_a_pair_cannot_be_written_in_a_job_file(escape: str) -> None:
    with pytest.raises(MistakesError, match=r"^a\.toml: is not valid TOML: .*line 1"):
        parse_job_toml(f'text = "a{escape}"'.encode(), "a.toml")


def test_control_characters_never_come_to_a_voice() -> None:
    everything = "".join(map(chr, range(0x20))).replace("\0", "") + "".join(map(chr, range(0x7F, 0xA0)))
    text = decode_text(f"a{everything}b".encode(), "a.txt")
    assert text[0] + text[-1] == "ab"
    assert set(text[1:-1]) == {" ", "\n", "\t"}


def test_ten_megabytes_are_refused_unread(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance("[limits]\nwait_for_files_seconds = 0\n")
    ten = b"Hello. " * (10_000_000 // 7)
    instance.drop("long.txt", ten)
    instance.drop("spaceless.txt", b"x" * 1_000_000)
    instance.drop("within.toml", b'text = """' + ten + b'"""')
    instance.drop("just.toml", b'text = """' + ten[:900_000] + b'"""')
    instance.atenea("run", "--once", code=1)
    firsts = {name: (instance.outbox / name).read_text().split("\n")[0] for name in instance.outputs()}
    assert firsts == {
        "just.error.txt": "just.toml: text: has 900,000 characters of text; 200,000 are the most",
        "long.error.txt": "long.txt: is larger than 800,000 bytes; see [limits] in the configuration",
        "spaceless.error.txt": "spaceless.txt: is larger than 800,000 bytes; see [limits] in the configuration",
        "within.error.txt": "within.toml: is larger than 1,048,576 bytes; see [limits] in the configuration",
    }


def test_markup_and_odd_characters_are_spoken_timed_and_written(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'stub'\n[post]\nplugins = ['subtitles']\n[tts.espeak]\nrate = 450\n")
    instance.plugin("stub", RENDER_STUB)
    for number in range(JOBS):
        instance.drop(f"{number}.txt", "\n".join(MARKUP[number::JOBS]))
    instance.atenea("run", "--once")
    assert {f"{number}.mp4" for number in range(JOBS)} <= set(instance.outputs())
    for number in range(JOBS):
        written = (instance.outbox / f"{number}.srt").read_text()
        assert "root:" not in written  # of /etc/passwd
        assert "\x1b" not in written
