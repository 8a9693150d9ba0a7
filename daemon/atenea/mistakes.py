"""Turns what pydantic says about a file of a user's into sentences that name the key, the mistake and the way out."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from atenea.naming import printable, shortened

Model = TypeVar("Model", bound=BaseModel)

_MOST_TOLD = 100
"""Mistakes of one table that get a sentence; the others are counted."""

_LONGEST_NAME = 120

_TOO_DEEP = "is nested too deeply"


class Invalid(Exception):  # noqa: N818 - a verdict with its reasons, always caught
    """Values that do not fit a model; `mistakes` holds a sentence for each, `paths` where they stand, () for all."""

    def __init__(self, mistakes: list[str], paths: Collection[tuple[int | str, ...]] = ((),)) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes
        self.paths = paths


def validated(model: type[Model], values: Mapping[str, Any], prefix: str = "") -> Model:
    """The values of a TOML table as a `model`; types must be right as they are, "3" is no number.

    Raises:
        Invalid: with all mistakes at once, each beginning with `prefix` and the key's path.
    """
    try:
        # Through JSON, because only there "strict" lets a string be a path and a list a tuple.
        text = json.dumps(values, default=str)
    except RecursionError:
        raise Invalid([_TOO_DEEP]) from None
    except ValueError:  # which Python raises for a number of thousands of digits
        raise Invalid(["holds a number with too many digits"]) from None
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        paths = [detail["loc"] for detail in error.errors(include_url=False)]
        raise Invalid(explain(error, prefix, model), paths) from None


def explain(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """A sentence for each mistake; `prefix` is the path of the validated table, such as "render"."""
    details = error.errors(include_url=False)
    told = [_sentence(detail, prefix, model) for detail in details[:_MOST_TOLD]]
    return told + ([f"and {len(details) - _MOST_TOLD:,} more mistakes"] if len(details) > _MOST_TOLD else [])


def nearest(name: str, valid: Iterable[str]) -> str:
    """'; did you mean X?', or the valid names where none is near and there are few."""
    names = sorted(valid)
    if len(name) > _LONGEST_NAME:
        return ""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if names and len(names) <= 20:
        return f"; valid: {', '.join(names)}"
    return ""


def _sentence(detail: ErrorDetails, prefix: str, model: type[BaseModel]) -> str:
    location = [part for part in detail["loc"] if isinstance(part, int) or not part.startswith("function-")]
    key = shortened(printable(".".join(str(part) for part in ([prefix] if prefix else []) + location)), _LONGEST_NAME)
    if detail["type"] == "json_invalid":  # by its depth: it is our own JSON
        return _TOO_DEEP
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(str(location[-1]), _keys_beside(model, location))}"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "dict_type" and len(location) > 1:
        message = "Input should be a table, with a plugin's name, that holds its options"
    elif detail["type"] in {"dict_type", "model_type"}:
        message = "Input should be a table"
    if message.startswith("Input should "):
        message = f"should {message.removeprefix('Input should ')}, but is {_shown(detail['input'])}"
    return f"{key}: {message}" if key else message


def _shown(value: Any) -> str:
    return shortened(printable(json.dumps(value, ensure_ascii=False, default=str)), 60)


def _keys_beside(model: type[BaseModel], location: list[int | str]) -> list[str]:
    """The valid keys of the table in which the last part of `location` stands."""
    current: type[BaseModel] | None = model
    for part in location[:-1]:
        if current is None:
            return []
        field = current.model_fields.get(str(part))
        current = _model_in(field.annotation) if field else current
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, typing.Annotated, dict, tuple, list}:
        return next((found for arg in typing.get_args(annotation) if (found := _model_in(arg))), None)
    return None
