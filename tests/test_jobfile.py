"""What people write: bytes to text, TOML to keys, and keys to the settings of each stage."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atenea.errors import MistakesError
from atenea.job import StageSettings
from atenea.jobfile import (
    JobKeys,
    StageDefaults,
    decode_text,
    parse_job_toml,
    post_settings,
    spoken_text,
    stage_settings,
    unused_post_tables,
)

_VALID = "audio, audio_file, avatar, post, priority, render, text, text_file, tts"


def mistakes(data: str | bytes) -> list[str]:
    """The mistakes of a job file."""
    with pytest.raises(MistakesError) as caught:
        parse_job_toml(data.encode() if isinstance(data, str) else data, "a.toml")
    assert caught.value.subject == "a.toml"
    return list(caught.value.mistakes)


# Text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello", "hello"),
        (b"\xef\xbb\xbfhello", "hello"),
        ("grüße".encode(), "grüße"),
        (b"one\r\ntwo\rthree\nfour", "one\ntwo\nthree\nfour"),
        (b"\n\n  hello \t\n", "hello"),
        (b"a\x1b[31mb\x7fc\x07d", "a [31mb c d"),
        ("a\x85b\x9bc".encode(), "a b c"),
        (b"a\tb", "a\tb"),
    ],
)
def test_text_is_utf8_with_plain_line_ends(data: bytes, text: str) -> None:
    assert decode_text(data, "a.txt") == text


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        ("hello".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("\ufeffhello".encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
        ("hello".encode("utf-16-le"), "holds NUL bytes, so it is no text; save it as UTF-8 text"),
        (b"hello\x00", "holds NUL bytes, so it is no text; save it as UTF-8 text"),
        ("one\ntwo gr\u00fc\u00dfe".encode("latin-1"), "line 2 is not UTF-8 (byte 0xfc); save it as UTF-8"),
        (b"\xef\xbb\xbfab\xff", "line 1 is not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"\xef\xbb\xbfa\n\n\xff", "line 3 is not UTF-8 (byte 0xff); save it as UTF-8"),
        (
            b"cut \xe2\x82",
            "ends in the middle of a character: the upload was cut off, so send it again (or it is not UTF-8)",
        ),
        (b"\xed\xa0\x80", "line 1 is not UTF-8 (byte 0xed); save it as UTF-8"),
        (b"", "has no text in it; write what is to be spoken"),
        (b"\xef\xbb\xbf", "has no text in it; write what is to be spoken"),
        (b" \r\n\t \x0c\n", "has no text in it; write what is to be spoken"),
        ("\u00a0\u2003\u3000".encode(), "has no text in it; write what is to be spoken"),
    ],
)
def test_what_is_no_text_is_refused_with_the_cure(data: bytes, mistake: str) -> None:
    with pytest.raises(MistakesError) as caught:
        decode_text(data, "a.txt")
    assert str(caught.value) == f"a.txt: {mistake}"


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_sentence(data: bytes) -> None:
    try:
        text = decode_text(data, "a.txt")
    except MistakesError as error:
        assert len(error.mistakes) == 1
    else:
        assert text == spoken_text(text, "again") != ""


# TOML


def test_everything_that_can_stand_in_a_job_file() -> None:
    keys = parse_job_toml(
        b"""
        text = "Hello"
        avatar = "ana.png"
        priority = -3
        [tts]
        plugin = "openai"
        voice = "nova"
        [render]
        fps = 25
        [post]
        plugins = ["poster", "mark"]
        [post.poster]
        quality = 80
        """,
        "a.toml",
    )
    assert (keys.text, keys.avatar, keys.priority) == ("Hello", "ana.png", -3)
    assert (keys.tts.plugin, keys.tts.options) == ("openai", {"voice": "nova"})
    assert (keys.render.plugin, keys.render.options) == (None, {"fps": 25})
    assert keys.post.plugins == ("poster", "mark")
    assert keys.post.options("poster") == {"quality": 80}
    assert keys.post.options("mark") == {}
    assert keys.audio == JobKeys().audio


def test_an_empty_file_is_a_job_without_a_source() -> None:
    keys = parse_job_toml(b"\xef\xbb\xbf\r\n# nothing\r\n", "a.toml")
    assert keys == JobKeys()
    assert not keys.has_source


@pytest.mark.parametrize(
    ("toml", "found"),
    [
        ("texx = 'a'", ["texx: unknown key; did you mean 'text'?"]),
        ("foo = 1", [f"foo: unknown key; valid: {_VALID}"]),
        ("[tss]", ["tss: unknown key; did you mean 'tts'?"]),
        ('"\\u001b[31mq" = 1', [f"_[31mq: unknown key; valid: {_VALID}"]),
        ("text = 3", ["text: should be a valid string, but is 3"]),
        ("text = ['a']", ['text: should be a valid string, but is ["a"]']),
        ("avatar = true", ["avatar: should be a valid string, but is true"]),
        ("priority = '3'", ['priority: should be a valid integer, but is "3"']),
        ("priority = 1.0", ["priority: should be a valid integer, but is 1.0"]),
        ("priority = true", ["priority: should be a valid integer, but is true"]),
        ("priority = nan", ["priority: should be a valid integer, but is NaN"]),
        ("priority = 1000001", ["priority: should be less than or equal to 1000000, but is 1000001"]),
        ("priority = -1000001", ["priority: should be greater than or equal to -1000000, but is -1000001"]),
        ("tts = 3", ["tts: should be a table, but is 3"]),
        ("post = 'poster'", ['post: should be a table, but is "poster"']),
        ("tts.plugin = 4", ["tts.plugin: should be a valid string, but is 4"]),
        ("post.plugins = 'poster'", ['post.plugins: should be a valid array, but is "poster"']),
        ("post.plugins = ['a', 3]", ["post.plugins.1: should be a valid string, but is 3"]),
        (
            "post.poster = 3",
            ["post.poster: should be a table, with a plugin's name, that holds its options, but is 3"],
        ),
        (
            "text = 'a'\ntext_file = 'b.txt'",
            ["text and text_file: only one of them can be spoken; leave one"],
        ),
        (
            "text = 1\naudio_file = 'b.wav'",
            [
                "text: should be a valid string, but is 1",
                "text and audio_file: only one of them can be spoken; leave one",
            ],
        ),
        pytest.param("priority = " + "1" * 5000, ["holds a number with too many digits"], id="long decimal"),
        pytest.param("priority = 0x" + "1" * 5000, ["holds a number with too many digits"], id="long hexadecimal"),
        pytest.param("a = " + "[" * 2000, ["is nested too deeply"], id="deep list"),
        pytest.param("a = " + "{a = " * 2000, ["is nested too deeply"], id="deep table"),
        pytest.param("tts" + ".a" * 300 + " = 1", ["is nested too deeply"], id="deep key"),
        pytest.param("tts" + ".a" * 5000 + " = 1", ["is nested too deeply"], id="deeper key"),
        ("text = 'a'\nx == 3", ["is not valid TOML: Invalid value (at line 2, column 4)"]),
        ("text = 'a'\ntext = 'b'", ["is not valid TOML: Cannot overwrite a value (at end of document)"]),
        ("text = ", ["is not valid TOML: Invalid value (at end of document)"]),
        ("a = '\x1b'", ["is not valid TOML: Found invalid character '\\x1b' (at line 1, column 6)"]),
    ],
)
def test_mistakes_name_key_line_and_way_out(toml: str, found: list[str]) -> None:
    assert mistakes(toml) == found


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes("prio = 3\ntext = 1\naudio_file = 'a.wav'\n[tts]\nplugin = 4\n[post]\nplugins = 5\n[tss]\n")
    assert sorted(found) == [
        "post.plugins: should be a valid array, but is 5",
        "prio: unknown key; did you mean 'priority'?",
        "text and audio_file: only one of them can be spoken; leave one",
        "text: should be a valid string, but is 1",
        "tss: unknown key; did you mean 'tts'?",
        "tts.plugin: should be a valid string, but is 4",
    ]


def test_toml_in_another_encoding_is_refused_with_its_line() -> None:
    assert mistakes("text = 'a'\navatar = '\u00fc'".encode("latin-1")) == [
        "line 2 is not UTF-8 (byte 0xfc); save it as UTF-8"
    ]
    assert mistakes(b"\xef\xbb\xbf\n\n'\xff'") == ["line 3 is not UTF-8 (byte 0xff); save it as UTF-8"]
    assert mistakes("text = 'a'".encode("utf-16")) == ["line 1 is not UTF-8 (byte 0xff); save it as UTF-8"]


def test_the_deepest_nesting_that_fits_in_a_job_file_does_not_kill_the_process() -> None:
    program = (
        "from atenea.errors import MistakesError\nfrom atenea.jobfile import parse_job_toml\n"
        "try:\n    parse_job_toml(b'a = ' + b'[' * 1_048_000, 'a.toml')\n"
        "except MistakesError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "a.toml: is nested too deeply\n")


_SAMPLE = b"""text = "Hello"\navatar = "ana.png"\npriority = 5\n[tts]\nplugin = "openai"\nspeed = 1.5\n
[render]\nseed = 0xFF\nwhen = 2024-02-29T12:00:00Z\n[post]\nplugins = ["a", "b"]\n[post.a]\n
x = {y = [1, 2.5e3, inf]}\n"""


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(_SAMPLE)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        pieces = st.one_of(st.binary(max_size=6), st.text(max_size=4).map(str.encode), st.sampled_from(_PIECES))
        data[at:end] = draw(pieces)
    return bytes(data)


_PIECES = [
    b"'''",
    b'"""',
    b"[[",
    b"]]",
    b"\\u",
    b"\\UFFFFFFFF",
    b"99-99-99",
    b"0x",
    b"1e999",
    b"nan",
    b"=",
    b"\r",
    b".",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), _mutated()))
def test_any_job_file_gives_keys_or_sentences(data: bytes) -> None:
    try:
        keys = parse_job_toml(data, "a.toml")
    except MistakesError as error:
        assert error.mistakes
        assert all(isinstance(mistake, str) and mistake for mistake in error.mistakes)
    else:
        assert isinstance(keys, JobKeys)


# Layers


def keys(**values: Any) -> JobKeys:
    """Keys as a file gives them."""
    return JobKeys.model_validate(values)


_DEFAULTS = StageDefaults.model_validate(
    {"plugin": "espeak", "espeak": {"voice": "en", "rate": 100}, "openai": {"voice": "nova"}}
)


def test_options_come_from_the_strongest_layer_that_means_the_plugin() -> None:
    job = keys(tts={"rate": 300})
    preset = keys(tts={"voice": "de", "rate": 200})
    assert stage_settings("tts", [job, preset], _DEFAULTS) == StageSettings(
        plugin="espeak", options={"voice": "de", "rate": 300}
    )


def test_options_for_another_plugin_than_the_chosen_one_do_not_count() -> None:
    job = keys(tts={"plugin": "openai", "speed": 2})
    preset = keys(tts={"plugin": "espeak", "pitch": 7})
    lower = keys(tts={"rate": 1})
    assert stage_settings("tts", [job, preset, lower], _DEFAULTS) == StageSettings(
        plugin="openai", options={"voice": "nova", "speed": 2}
    )


def test_a_layer_without_a_plugin_means_that_of_the_next_weaker_one() -> None:
    job = keys(tts={"speed": 2})
    preset = keys(tts={"plugin": "openai", "speed": 1, "voice": "alloy"})
    assert stage_settings("tts", [job, preset], _DEFAULTS) == StageSettings(
        plugin="openai", options={"voice": "alloy", "speed": 2}
    )


def test_without_layers_the_configuration_counts() -> None:
    assert stage_settings("tts", [JobKeys()], _DEFAULTS) == StageSettings(
        plugin="espeak", options={"voice": "en", "rate": 100}
    )


def test_post_plugins_are_those_of_the_strongest_layer_in_its_order() -> None:
    job = keys(post={"plugins": ["b", "a"], "a": {"x": 1}})
    preset = keys(post={"plugins": ["c"], "a": {"x": 2, "y": 2}})
    assert post_settings([job, preset], ["d"], {"a": {"z": 3}, "b": {"q": 4}}) == (
        StageSettings(plugin="b", options={"q": 4}),
        StageSettings(plugin="a", options={"x": 1, "y": 2, "z": 3}),
    )
    assert post_settings([JobKeys()], ["d"], {}) == (StageSettings(plugin="d"),)


def test_an_empty_list_of_post_plugins_is_a_choice() -> None:
    assert post_settings([keys(post={"plugins": []})], ["poster"], {}) == ()


def test_options_for_a_post_plugin_that_is_not_used_are_a_mistake() -> None:
    job = keys(post={"plugins": ["a"], "a": {"x": 1}, "poster": {"at": 1}})
    assert list(unused_post_tables(job, post_settings([job], [], {}))) == [
        "post.poster: is no plugin of this job; list it in post.plugins, or remove the table"
    ]
