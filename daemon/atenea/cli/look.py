"""The commands that only look: check, plugins."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from atenea.cli.app import CommandWithArguments, ConfigOption, JsonOption, app
from atenea.config import Config, load_config
from atenea.errors import ExitCode
from atenea.executor import Failed, Task
from atenea.inbox.names import JOB_FILE, Kind, kind_by_suffix, picture_names
from atenea.jobfile import PROVENANCE
from atenea.naming import printable

if TYPE_CHECKING:
    from atenea.local_executor import LocalExecutor

Result = TypeVar("Result")


@app.command(cls=CommandWithArguments)
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Texts, TOML job files or job folders.")],
    config: ConfigOption = None,
) -> int:
    """Validate job files without running them.

    Tells too which files that presets name are missing. Exits with 1 if a job file has mistakes.
    """
    settings = load_config(config)

    async def check_all(executor: LocalExecutor) -> tuple[list[str], list[str | None]]:
        return await _check_presets(executor), [await _check(executor, settings, file) for file in files]

    warnings, complaints = _with_executor(_for_checking(settings), check_all)
    for warning in warnings:
        print("atenea:", printable(warning), file=sys.stderr)
    for file, complaint in zip(files, complaints, strict=True):
        if complaint is None:
            print(f"{printable(str(file))}: ok")
        else:
            print("atenea:", printable(complaint), file=sys.stderr)
    return ExitCode.FAILED if any(complaints) else ExitCode.DONE


def _for_checking(settings: Config) -> Config:
    """Files that a job names count as they are: nobody is writing them."""
    return settings.model_copy(update={"watch": settings.watch.model_copy(update={"settle_seconds": 0.0})})


async def _check_presets(executor: LocalExecutor) -> list[str]:
    """What is wrong with the files of presets; no reason to refuse jobs that do without them."""
    task = Task(kind="configuration", needs=frozenset({"intake"}))
    outcome = await executor.run(task, lambda _fraction, _text: None)
    return [] if isinstance(outcome, Failed) else list(outcome.result["files"])


async def _check(executor: LocalExecutor, config: Config, file: Path) -> str | None:
    """What is wrong with a job file, in one sentence."""
    if file.is_dir() and not (file / JOB_FILE).is_file():
        return f"{file}: is no job folder; there is no {JOB_FILE} in it"
    if not file.exists():
        return f"{file}: there is no such job file"
    if not file.is_dir() and kind_by_suffix(file.name) not in {Kind.TEXT, Kind.TOML}:
        return f"{file}: is no job; name a .txt, a .toml, or a folder with a {JOB_FILE} inside"
    with TemporaryDirectory(prefix="atenea-check-") as folder:
        original = Path(folder) / "original"
        original.mkdir()
        try:
            relative = _mirror(file, original, config)
        except OSError as error:
            return f"{file}: cannot be read: {error.strerror or error}"
        preset = relative.partition("/")[0] if "/" in relative else None
        beside = str(file.absolute().parent)
        arguments = {"relative": relative, "preset": preset, "previous": dict[str, Any](), "beside": beside}
        task = Task(kind="intake", needs=frozenset({"intake"}), job_id="check", folder=folder, arguments=arguments)
        outcome = await executor.run(task, lambda _fraction, _text: None)
    if isinstance(outcome, Failed):
        return outcome.error
    waiting = outcome.result.get("waiting")
    return f"{file}: names files that are not there: {', '.join(map(printable, waiting))}" if waiting else None


def _mirror(file: Path, original: Path, config: Config) -> str:
    """Copy the job as taking would; in a preset's folder, if the file lies in one. Its path below `original`."""
    inbox = config.paths.inbox.resolve()
    place = file.resolve() if file.is_dir() else file.parent.resolve() / file.name
    level = place.parent.name if place.parent.parent == inbox and place.parent.name in config.presets else ""
    (original / level).mkdir(exist_ok=True)
    if file.is_dir():
        shutil.copytree(file, original / level / place.name, symlinks=True)
    else:
        for source in [file, *(file.with_name(name) for name in picture_names(file.name))]:
            if source.is_file():
                shutil.copyfile(source, original / level / source.name)
    return f"{level}/{place.name}" if level else place.name


@app.command()
def plugins(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List every plugin: stages, options, or why it is refused."""
    from atenea.local_executor import catalogue  # noqa: PLC0415 - the other commands start faster without it

    settings = load_config(config)
    found = _with_executor(settings, catalogue)
    enabled = {settings.tts.plugin, settings.audio.plugin, settings.render.plugin, *settings.post.plugins}
    enabled |= {PROVENANCE} if settings.post.marked() else set()
    infos = [{**plugin, "enabled": plugin["name"] in enabled} for plugin in found]
    if as_json:
        print(json.dumps({"plugins": infos}))
        return
    for info in infos:
        print("\n".join(_plugin_lines(info)))


def _plugin_lines(info: dict[str, Any]) -> list[str]:
    version = f" {info['version']}" if info["version"] else ""
    title = (
        f"{info['name']}{version}: {', '.join(info['stages']) or 'refused'}{' (enabled)' if info['enabled'] else ''}"
    )
    lines = [title, f"  from {info['source']}"]
    if info["refused"]:
        lines.append(f"  {info['refused']}")
        return lines
    lines.append(f"  needs {', '.join(info['needs'])}")
    for name, schema in info["options"].get("properties", {}).items():
        lines.append(f"  {name} = {json.dumps(schema.get('default'))}  {schema.get('description', '')}".rstrip())
    lines += [f"  hides {other}" for other in info["shadows"]]
    return lines


def _with_executor(config: Config, work: Callable[[LocalExecutor], Awaitable[Result]]) -> Result:
    # Here, because the other commands start faster without them.
    import asyncio  # noqa: PLC0415

    from atenea.local_executor import LocalExecutor  # noqa: PLC0415
    from atenea.logs import configure_logging  # noqa: PLC0415

    configure_logging(level=logging.ERROR)

    async def do() -> Result:
        executor = LocalExecutor(config)
        try:
            return await work(executor)
        finally:
            await executor.close()

    return asyncio.run(do())
