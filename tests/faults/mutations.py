"""Job files as nobody would write them: changed bytes, pieces of TOML where they do not belong, and much of it."""

from __future__ import annotations

import random

SAMPLE = b"""text = "Hello, world."
avatar = "ana.png"
priority = 5
[tts]
plugin = "espeak"
voice = "en-gb"
rate = 170
[render]
fps = 0x19
when = 2024-02-29T12:00:00Z
[post]
plugins = ["poster", "subtitles"]
[post.poster]
at = 2.5e0
x = {y = [1, inf, "\\u00e9"], z.a = '''b'''}
"""

TEXT = "Good evening. \U0001f600 Ünïcode, 漢字; \u202egnihtyna\u202c.\r\n".encode()

_PIECES = (
    *(b"'''", b'"""', b"[[", b"]]", b"[", b"]", b"{", b"}", b"=", b".", b",", b"#", b"\r", b"\n", b"\0", b"\x1b[31m"),
    *(b"\\u", b"\\UFFFFFFFF", b"\\ud800", b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\xc0\x80"),
    *(b"99-99-99", b"0x", b"1e999", b"-nan", b"9" * 5000, b"0b1", b"1_", b"true", b"../", b"/etc/passwd", b"$(id)"),
    *(
        b"[tts]\n",
        b"[post.x]\n",
        b"[[presets]]\n",
        b"text_file = ",
        b"audio_file = 'a.wav'\n",
        b"%s{0}",
        b"plugin = 7\n",
    ),
)

_REPEATED = (
    *(b"[", b"{a=", b"a.", b"[[a]]\n", b"'a',", b"x = 1\n", b'"', b"'", b"\\", b"\n", b"#", b"\xcc\x81", b"a"),
    *(b"[post.a]\n", b" ", b"=", b"\xf0\x9f\x98\x80", b"9"),
)


def mutated_job_file(draw: random.Random) -> bytes:
    """A TOML job file with a few mistakes, as damage, ignorance and malice make them."""
    return _mutated(SAMPLE, draw)


def mutated_text(draw: random.Random) -> bytes:
    """The same of a text."""
    return _mutated(TEXT, draw)


def _mutated(sample: bytes, draw: random.Random) -> bytes:
    data = bytearray(sample)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(8):
            case 0:
                data[at : at + 1] = draw.randbytes(1)
            case 1:
                data[at : at + draw.randrange(20)] = b""
            case 2:
                data[at:at] = draw.choice(_PIECES)
            case 3:
                data[at : at + draw.randrange(12)] = draw.choice(_PIECES)
            case 4:
                data[at:at] = draw.choice(_REPEATED) * draw.choice((2, 40, 3000))
            case 5:
                _swap_lines(data, draw)
            case 6:
                _double_line(data, draw)
            case 7:
                _change_value(data, draw)
    return bytes(data)


def _swap_lines(data: bytearray, draw: random.Random) -> None:
    lines = data.splitlines(keepends=True)
    draw.shuffle(lines)
    data[:] = b"".join(lines)


def _double_line(data: bytearray, draw: random.Random) -> None:
    lines = data.splitlines(keepends=True) or [bytearray()]
    data += draw.choice(lines)


def _change_value(data: bytearray, draw: random.Random) -> None:
    lines = data.splitlines()
    assigned = [number for number, line in enumerate(lines) if b"=" in line]
    if assigned:
        number = draw.choice(assigned)
        values = (
            b"[]",
            b"{}",
            b"''",
            b"-1",
            b"1e400",
            b"nan",
            b"[[[]]]",
            b"{a={b=1}}",
            b"1979-05-27",
            b"'\\'",
            b"false",
        )
        lines[number] = lines[number].partition(b"=")[0] + b"= " + draw.choice(values)
    data[:] = b"\n".join(lines)
