"""What pydantic says, in sentences for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from atenea.mistakes import Invalid, nearest, validated


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "red"
    size: int = Field(1, ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0
    path: Path = Path()
    pair: tuple[str, ...] = ()
    maybe: Inner | None = None
    many: dict[str, Inner] = Field(default_factory=dict)
    needed: str

    @field_validator("number")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


def mistakes(values: dict[str, Any], prefix: str = "") -> list[str]:
    """The mistakes in the values."""
    with pytest.raises(Invalid) as caught:
        validated(Outer, {"needed": "x", **values}, prefix)
    assert str(caught.value) == "; ".join(caught.value.mistakes)
    return caught.value.mistakes


def test_values_of_a_toml_table_become_paths_and_tuples() -> None:
    outer = validated(Outer, {"needed": "x", "path": "a/b", "pair": ["p", "q"], "maybe": {"size": 3}})
    assert (outer.path, outer.pair, outer.maybe) == (Path("a/b"), ("p", "q"), Inner(size=3))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nmber": 2}, "nmber: unknown key; did you mean 'number'?"),
        ({"zzz": 2}, "zzz: unknown key; valid: many, maybe, needed, number, pair, path"),
        ({"maybe": {"color": "b"}}, "maybe.color: unknown key; did you mean 'colour'?"),
        ({"many": {"a": {"siz": 2}}}, "many.a.siz: unknown key; did you mean 'size'?"),
        ({"many": {"a": {"size": 0}}}, "many.a.size: should be greater than or equal to 1, but is 0"),
        ({"many": 3}, "many: should be a table, but is 3"),
        ({"number": "2"}, 'number: should be a valid integer, but is "2"'),
        ({"number": 3}, "number: must be even"),
        ({"pair": [1]}, "pair.0: should be a valid string, but is 1"),
        ({"number": "x" * 100}, f'number: should be a valid integer, but is "{"x" * 56}...'),
        ({"number": "\x9b\u202e"}, 'number: should be a valid integer, but is "__"'),
        pytest.param({"number": 10**5000}, "holds a number with too many digits", id="digits"),
    ],
)
def test_a_sentence_names_key_mistake_and_way_out(values: dict[str, Any], sentence: str) -> None:
    assert mistakes(values) == [sentence]


def test_each_sentence_begins_with_the_path_of_the_table() -> None:
    assert mistakes({"nmber": 2, "number": "x"}, "render.x") == [
        'render.x.number: should be a valid integer, but is "x"',
        "render.x.nmber: unknown key; did you mean 'number'?",
    ]


def test_a_missing_key_is_named() -> None:
    with pytest.raises(Invalid, match=r"^tts\.needed: is missing$"):
        validated(Outer, {}, "tts")


@pytest.mark.parametrize("depth", [300, 100_000])
def test_values_too_deep_for_json_are_a_mistake(depth: int) -> None:
    values: Any = 1
    for _ in range(depth):
        values = [values]
    assert mistakes({"maybe": values}) == ["is nested too deeply"]


def test_nearest_stays_silent_when_nothing_is_near_and_there_are_many() -> None:
    assert nearest("zzz", [f"key{number}" for number in range(21)]) == ""
    assert nearest("zzz", []) == ""
    assert nearest("key1", ["key1x", "other"]) == "; did you mean 'key1x'?"
