"""`atenea run` and `atenea generate`: the daemon in the foreground, and one job without it."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from atenea.cli.app import ConfigOption, app, examples
from atenea.cli.display import StepDisplay
from atenea.config import Config, Paths, Watch, load_config
from atenea.credentials import find_secrets
from atenea.errors import AteneaError, ExitCode, UsageError
from atenea.inbox import names
from atenea.jobfile import JobKeys, StageKeys
from atenea.submission import submit_file

_AVATAR = "avatar-of-this-command"

_OPTIONS = {"tts.voice": "--voice", "render.fps": "--fps", "render.num_inference_steps": "--steps"}
"""What sets a key of the job from the command line."""


@app.command(epilog=examples("atenea run", "atenea run --once --config etc/atenea.toml"))
def run(
    config: ConfigOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when the inbox is empty and every job is finished.")
    ] = False,
) -> int:
    """Run the daemon in the foreground. With --once, print the path of each video.

    It logs to standard error: for people on a terminal, JSON lines in a pipe, with fields in the journal under systemd.
    SIGTERM or Ctrl+C ends it; what ran goes on at the next start. SIGHUP reads the configuration and the plugins anew;
    a changed inbox, outbox or state takes a restart.
    """
    # Here, because the other commands start faster without them.
    import asyncio  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from atenea.daemon import Daemon  # noqa: PLC0415
    from atenea.logs import configure_logging  # noqa: PLC0415

    settings = load_config(config)
    secrets = find_secrets(settings.file)
    configure_logging(secrets.values(), jobs=settings.jobs)
    daemon = Daemon(settings, secrets, once=once, on_published=typer.echo if once else None)
    try:
        return asyncio.run(daemon.run())
    except AteneaError:
        raise
    except Exception:
        structlog.get_logger().critical("the daemon broke", exc_info=True)
        raise


@app.command(
    epilog=examples("atenea generate -i hello.txt", "atenea generate -i hello.txt -a ana.png -v en-gb -o ana.mp4")
)
def generate(
    file: Annotated[
        Path, typer.Option("-i", "--input", metavar="FILE", help="A text, a TOML job file or a job folder.")
    ],
    avatar: Annotated[
        Path | None, typer.Option("-a", "--avatar", metavar="FILE", help="The picture to animate.")
    ] = None,
    voice: Annotated[
        str | None, typer.Option("-v", "--voice", metavar="NAME", help="The voice, as the tts plugin calls it.")
    ] = None,
    fps: Annotated[int | None, typer.Option("--fps", metavar="N", help="Frames per second.")] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="num_inference_steps of the render plugin, if it has that option."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT.mp4",
            help="Where the video goes, replaced if it exists; otherwise the input's name in the current folder.",
        ),
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Make one video through the same stages, without the daemon."""
    from atenea.logs import configure_logging  # noqa: PLC0415 - the other commands start faster without it

    settings = load_config(config)
    secrets = find_secrets(settings.file)
    configure_logging(secrets.values(), level=logging.CRITICAL)
    target = output or Path(f"{names.stem(file.name) if file.is_file() else file.name}.mp4")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: there is no such folder for the video")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; name the video's file in it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{target.parent}: you may not write the video there; name another file with -o")
    with TemporaryDirectory(prefix=".atenea-", dir=target.parent) as folder:
        private = _private(settings, Path(os.path.abspath(folder)), _overrides(avatar, voice, fps, steps))
        private.paths.inbox.mkdir()
        if avatar:
            _copy_avatar(avatar, private.paths.inbox)
        submit_file(file, private.paths.inbox)
        video = _make(private, secrets, avatar)
        os.replace(video, target)
    typer.echo(target)
    return ExitCode.DONE


def _overrides(avatar: Path | None, voice: str | None, fps: int | None, steps: int | None) -> JobKeys:
    given = {"fps": fps, "num_inference_steps": steps}
    render = {key: value for key, value in given.items() if value is not None}
    return JobKeys(
        avatar=f"{_AVATAR}{avatar.suffix}" if avatar else None,
        tts=_stage({"voice": voice} if voice else {}),
        render=_stage(render),
    )


def _as_given(sentence: str, overrides: JobKeys, avatar: Path | None) -> str:
    """What is wrong with a job, with the options of the command line in the place of the keys that they have set."""
    for key, option in _OPTIONS.items():
        stage, name = key.split(".")
        if name in overrides.stage(stage).options:
            lacking = f"{option}: the {stage} plugin has no option {name}"
            sentence = re.sub(rf"(?<=[:;] ){re.escape(key)}: unknown key", lacking, sentence)
            sentence = re.sub(rf"(?<=[:;] ){re.escape(key)}(?=: )", option, sentence)
    if avatar:
        sentence = sentence.replace(f"avatar: {overrides.avatar}", f"--avatar: {avatar.name}")
    # What the command line has wrong alone is not the job file's.
    return re.sub(r"^[^:]+: (?=--)", "", sentence)


def _stage(options: dict[str, Any]) -> StageKeys:
    return StageKeys.model_validate(options)


def _private(settings: Config, folder: Path, overrides: JobKeys) -> Config:
    """The same configuration for one job of its own: nothing shared but the cache, assets, plugins and models."""
    paths = {**dict(settings.paths), **{name: folder / name for name in ("inbox", "outbox", "state")}}
    return settings.model_copy(
        update={
            "paths": Paths(**paths),
            "watch": Watch(settle_seconds=0, polling=True, rescan_seconds=1),
            "retry": settings.retry.model_copy(update={"attempts": min(settings.retry.attempts, 3)}),
            "limits": settings.limits.model_copy(update={"wait_for_files_seconds": 0}),
            "overrides": overrides,
        }
    )


def _copy_avatar(avatar: Path, inbox: Path) -> None:
    try:
        shutil.copyfile(avatar, inbox / f"{_AVATAR}{avatar.suffix}")
    except OSError as error:
        raise UsageError(f"{avatar}: cannot be read: {error.strerror}") from None


def _make(config: Config, secrets: dict[str, str], avatar: Path | None) -> Path:
    import asyncio  # noqa: PLC0415 - the other commands start faster without them

    from atenea.daemon import Daemon  # noqa: PLC0415

    videos: list[Path] = []
    with StepDisplay() as display:
        daemon = Daemon(config, secrets, once=True, on_published=videos.append, on_progress=display.update)
        asyncio.run(daemon.run())
        if videos:
            display.complete()
    if videos:
        return videos[0]
    answers = list(config.paths.outbox.glob("*.error.txt"))
    if not answers:
        raise KeyboardInterrupt
    sentence = answers[0].read_text(encoding="utf-8").partition("\n")[0]
    raise AteneaError(_as_given(sentence, config.overrides, avatar))
