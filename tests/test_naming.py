"""Names that people gave, in the outbox and on a terminal."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atenea.naming import MAX_STEM_BYTES, printable, safe_stem

_NAMES = st.text(st.characters(codec=None), max_size=300)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("hello", "hello"),
        ("grüße an 日本", "grüße an 日本"),
        ("a/b", "a_b"),
        ("line\nbreak\ttab", "line_break_tab"),
        ("\x1b[31mred", "_[31mred"),
        ("\x9b31mred", "_31mred"),
        ("abc\u202egpj.exe", "abc_gpj.exe"),
        ("no\u00a0break", "no_break"),
        ("caf\udce9", "caf_"),
        ("..hidden", "hidden"),
        (". .hidden", "hidden"),
        (" . . ", "unnamed"),
        ("  padded  ", "padded"),
        ("ends with dots..", "ends with dots.."),
        ("", "unnamed"),
    ],
)
def test_a_stem_is_printable_and_not_hidden(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


@pytest.mark.parametrize("character", ["a", "é", "語", "😀"])
def test_a_long_name_is_cut_between_characters(character: str) -> None:
    stem = safe_stem(character * 255)
    assert stem == character * (MAX_STEM_BYTES // len(character.encode()))


def test_a_space_at_the_cut_is_dropped() -> None:
    assert safe_stem("a" * 199 + " b") == "a" * 199


@given(_NAMES)
def test_every_stem_makes_a_file_of_the_outbox(name: str) -> None:
    stem = safe_stem(name)
    assert 0 < len(stem.encode("utf-8")) <= MAX_STEM_BYTES
    assert stem == stem.strip()
    assert not stem.startswith(".")
    assert "/" not in stem
    assert all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in stem)


@given(_NAMES)
def test_the_stem_of_a_stem_is_itself(name: str) -> None:
    assert safe_stem(safe_stem(name)) == safe_stem(name)


def test_the_longest_stem_leaves_room_for_number_and_suffix(tmp_path: Path) -> None:
    path = tmp_path / f"{safe_stem('x' * 1000)}-123456.progress.txt"
    path.write_bytes(b"")
    assert os.listdir(tmp_path) == [path.name]


def test_printable_keeps_the_length_and_shows_what_can_be_seen() -> None:
    assert printable("a\r\nb\u2066c\ud800 d") == "a__b_c_ d"
