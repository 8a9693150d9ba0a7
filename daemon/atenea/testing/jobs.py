"""Runs a whole job with a plugin: `atenea run --once`, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Any

from atenea.config import load_config
from atenea.errors import ExitCode, UsageError
from atenea.plugin_manager import PluginManager
from atenea.testing.stages import TEXT, located

_NAME = "test"


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job brought into the outbox.

    Attributes:
        video: NAME.mp4; None if the job failed.
        report: NAME.json; empty if the job failed.
        error: NAME.error.txt, of which the first line is a sentence; None if the job is done.
        files: every file in the outbox, by what follows NAME in its name, such as ".mp4" and ".jpg".
        log: the lines of the daemon's log.
    """

    video: Path | None
    report: Mapping[str, Any]
    error: str | None
    files: Mapping[str, Path]
    log: tuple[Mapping[str, Any], ...]


def run_job(
    plugin: str | Path,
    *,
    folder: Path,
    text: str = TEXT,
    job_file: str | None = None,
    avatar: Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    config: Mapping[str, Any] = MappingProxyType({}),
    timeout: float = 120.0,
) -> JobResult:
    """Make a video of a text with a real daemon whose stages the plugin serves, as many as it has.

    The other stages are those of a new installation: `espeak`, `wav` and `preview`. A stage is tried once.

    Args:
        plugin: the path of its file, or its name if it is installed or comes with atenea.
        folder: the job gets a new folder below it.
        text: what to speak.
        job_file: the TOML of a job file, instead of the text.
        avatar: dropped beside the job; in a job file it is called "avatar" with its suffix.
        options: of the plugin, as they stand in the configuration.
        config: what else stands in the configuration, as a table of tables; it wins.
        timeout: the seconds after which the job is ended.

    Raises:
        PluginError: the plugin cannot be used.
        UsageError: the configuration has mistakes, wrong options for instance.
        TimeoutExpired: the job took too long.
    """
    name, plugins = located(plugin)
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(mkdtemp(prefix="job-", dir=folder))
    (place / "inbox").mkdir()
    stages = PluginManager(plugins or place / "plugins").load(name).stages
    base = {
        "paths": {"plugins": str(plugins or place / "plugins")},
        "watch": {"settle_seconds": 0, "polling": True, "rescan_seconds": 1},
        "retry": {"attempts": 1},
        "limits": {"wait_for_files_seconds": 0},
        **{stage: {"plugin": name, name: options} for stage in stages if stage != "post"},
        **({"post": {"plugins": [name], name: options}} if "post" in stages else {}),
    }
    settings = place / "atenea.toml"
    settings.write_text(_toml_file(_merged(base, config)), encoding="utf-8")
    _drop(place / "inbox", text, job_file, avatar)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "atenea", "run", "--once", "--config", str(settings)],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode not in {ExitCode.DONE, ExitCode.FAILED}:
        raise UsageError(done.stderr.strip())
    return _result(load_config(settings).paths.outbox, done.stderr)


def _drop(inbox: Path, text: str, job_file: str | None, avatar: Path | None) -> None:
    if avatar:  # first, so that the job finds it
        shutil.copyfile(avatar, inbox / f"{_NAME if job_file is None else 'avatar'}{avatar.suffix}")
    if job_file is None:
        (inbox / f"{_NAME}.txt").write_text(text, encoding="utf-8")
    else:
        (inbox / f"{_NAME}.toml").write_text(job_file, encoding="utf-8")


def _result(outbox: Path, stderr: str) -> JobResult:
    files = {name.removeprefix(_NAME): outbox / name for name in sorted(os.listdir(outbox))}
    report, error = files.get(".json"), files.get(".error.txt")
    return JobResult(
        video=files.get(".mp4"),
        report=json.loads(report.read_text(encoding="utf-8")) if report else {},
        error=error.read_text(encoding="utf-8") if error else None,
        files=files,
        log=tuple(json.loads(line) for line in stderr.splitlines() if line.startswith("{")),
    )


def _merged(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key for key in weak.keys() & strong.keys() if isinstance(strong[key], Mapping)}
    return {**weak, **strong, **{key: _merged(weak[key], strong[key]) for key in tables}}


def _toml_file(table: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's; tables are not."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
