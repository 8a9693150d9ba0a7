"""Writes the parts of docs/reference.md that the code itself says: commands, options, keys. `make docs` runs it.

Each part stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`. Sentences come from where the
code has them: docstrings of commands and of fields, the help of options.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atenea.cli.app import app, argument_usage
from atenea.cli.commands import register
from atenea.config import Settings
from atenea.jobfile import FILE_KEYS, JobKeys

register()

PAGE = Path(__file__).with_name("reference.md")

_PART = re.compile(r"(?<=<!-- generated: )([a-z ]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
_COMMON = {"--help", "--config"}
_TYPES = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "Path": "path",
    "StageKeys": "table",
    "PostKeys": "table",
}


def generated(page: str) -> str:
    """The page with its parts as they are now.

    Raises:
        KeyError: it has a part that nothing makes.
    """
    parts = {
        "commands": _commands,
        "options": _options,
        "configuration": _configuration,
        "job file": _job_file,
    }
    return _PART.sub(lambda match: f"{match[1]}{match[2]}{_table(*parts[match[1]]())}", page)


def _commands() -> Iterator[tuple[str, ...]]:
    yield "command", "what it does"
    for name, command in _walk("atenea", typer.main.get_command(app)):
        needed = [f"{item.opts[0]} {item.metavar}" for item in _parameters(command, "option") if item.required]
        usage = " ".join([name, *needed, *map(argument_usage, _parameters(command, "argument"))])
        yield f"`{usage}`", " ".join(inspect.cleandoc(command.help or "").split())


def _options() -> Iterator[tuple[str, ...]]:
    yield "command", "option", "meaning"
    for name, command in _walk("atenea", typer.main.get_command(app)):
        for option in _parameters(command, "option"):
            if not _COMMON.intersection(option.opts):
                yield f"`{name.removeprefix('atenea ')}`", _option(option), _meaning(option)


def _configuration() -> Iterator[tuple[str, ...]]:
    yield "key", "type", "default", "meaning"
    for table, field in Settings.model_fields.items():
        model = field.annotation
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            yield f"`{table}.NAME`", "table", "none", _meaning_of(Settings, table)
            continue
        for key, value in model.model_fields.items():
            yield f"`{table}.{key}`", _type(value), _default(value), _meaning_of(model, key)


def _job_file() -> Iterator[tuple[str, ...]]:
    yield "key", "type", "meaning"
    for key, field in JobKeys.model_fields.items():
        yield f"`{key}`", "file name" if key in FILE_KEYS else _type(field), _meaning_of(JobKeys, key)


def _table(heading: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(heading)}", *lines[1:], ""])


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands that do something, each with its full name."""
    if not hasattr(command, "commands"):
        yield name, command
    for below, deeper in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {below}", deeper)


def _parameters(command: Any, kind: str) -> Iterator[Any]:
    return (parameter for parameter in command.params if parameter.param_type_name == kind and not parameter.hidden)


def _option(option: Any) -> str:
    *others, last = option.opts
    value = f" {option.metavar}" if option.metavar else ""
    return ", ".join([*(f"`{name}`" for name in others), f"`{last}{value}`"])


def _meaning(option: Any) -> str:
    default = f" ({option.default})" if isinstance(option.default, int | str) and option.default is not False else ""
    text = option.help.removesuffix(".") + default + "."
    return f"{text} Required." if option.required else text


def _type(field: FieldInfo) -> str:
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    if get_origin(field.annotation) is tuple or get_origin(kinds[0]) is tuple:
        return "list of names"
    name = getattr(kinds[0], "__name__", "")
    return _TYPES[name]


def _default(field: FieldInfo) -> str:
    if field.default_factory:
        return inspect.getdoc(field.default_factory) or ""
    return f"`{json.dumps(field.default, default=str)}`"


def _meaning_of(model: type[BaseModel], key: str) -> str:
    try:
        return _meanings(model)[key]
    except KeyError:
        raise SystemExit(f"{model.__module__}: {model.__name__}.{key} has no docstring; write one below it") from None


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings of a model's fields; pydantic could collect them, but at every start."""
    body = next(node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
