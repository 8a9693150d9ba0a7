"""Where secrets come from, and how they are kept out of everything that is written."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from atenea.errors import ConfigError
from atenea.plugin_files import distrusted

SECRETS = ("OPENAI_API_KEY",)
_FOLDER = "$CREDENTIALS_DIRECTORY/"


_PR_SET_DUMPABLE = 4


def hide_from_others() -> None:
    """Let no other process of this user look into this one: neither into its memory nor at /proc/PID/environ.

    Whoever may trace every process (root, as a rule) still can, and there are no core dumps then. A program that this
    process starts is not hidden.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the memory of this process cannot be hidden")


def find_secrets(config_file: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Each secret from the environment, from systemd's credentials, or from `atenea.env` beside the configuration.

    Raises:
        ConfigError: others may read `atenea.env`, or have written it; a line of it is wrong; or one of the files cannot
            be read.
    """
    secrets = _from_env_file(config_file.with_name("atenea.env")) if config_file else {}
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    for name in SECRETS:
        if credentials and (path := Path(credentials) / name.lower()).is_file() and (value := _credential(path)):
            secrets[name] = value
        if environment.get(name):
            secrets[name] = environment[name].strip()
    return {name: value for name, value in secrets.items() if value}


def with_folder(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """A value of the configuration; paths in it that begin with `$CREDENTIALS_DIRECTORY/` get the real folder."""
    if isinstance(value, str) and value.startswith(_FOLDER) and "CREDENTIALS_DIRECTORY" in environment:
        return f"{environment['CREDENTIALS_DIRECTORY']}/{value.removeprefix(_FOLDER)}"
    if isinstance(value, Mapping):
        return {key: with_folder(item, environment) for key, item in value.items()}
    return value


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret value replaced."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return text


def redact_all(value: Any, secrets: Collection[str]) -> Any:
    """A JSON value with every secret replaced, in keys too."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {redact_all(key, secrets): redact_all(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item, secrets) for item in value]
    return value


def _credential(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None


def _from_env_file(path: Path) -> dict[str, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(str(path), ["is no regular file; write the secrets into one"])
    # Bytes that are no UTF-8 end up in a value or in a name that is refused.
    with os.fdopen(descriptor, encoding="utf-8-sig", errors="replace") as file:
        facts = os.fstat(descriptor)
        if stat.S_IMODE(facts.st_mode) & 0o077:
            raise ConfigError(str(path), [f"others may read the secrets in it; run: chmod 600 {path}"])
        if reason := distrusted(path, facts):
            raise ConfigError(str(path), [reason])
        return dict(_assignment(line, number, path) for number, line in enumerate(file, 1) if _means_something(line))


def _means_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _assignment(line: str, number: int, path: Path) -> tuple[str, str]:
    name, equals, value = line.strip().removeprefix("export ").partition("=")
    if not equals or name.strip() not in SECRETS:
        raise ConfigError(str(path), [f"line {number}: expected {' or '.join(SECRETS)}=..."])
    return name.strip(), value.strip().strip("'\"")
