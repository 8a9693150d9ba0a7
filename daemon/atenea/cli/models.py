"""`atenea models`: fetch the models of Hallo2, and check them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from atenea.cli.app import ConfigOption, app
from atenea.cli.display import StepDisplay
from atenea.config import load_config
from atenea.errors import AteneaError, ExitCode, UsageError
from atenea.models.checking import OnBytes, concerned_files, total_bytes
from atenea.models.checking import verify as verify_files
from atenea.models.downloading import Plan, carry_out, plan
from atenea.models.lockfile import LOCK_FILE, only_downloader
from atenea.models.manifest import COMMIT, PARTS, REPOSITORY
from atenea.naming import printable

models = typer.Typer(
    name="models", help="Fetch and check the models of Hallo2.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(models)


@models.command()
def download(
    vocals: Annotated[
        bool, typer.Option("--vocals", help="Also fetch Kim_Vocal_2, which takes music out of recordings.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the models' licences without being asked.")] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch what is missing or wrong of the models.

    They go into `paths.models`, after you accept their licences. Run again, it goes on where it stopped.
    """
    folder = load_config(config).paths.models
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            "the models' licences have to be accepted, and there is no terminal to ask on; read docs/models.md and add "
            "--yes"
        )
    try:
        with only_downloader(folder):
            _download(folder, vocals=vocals, yes=yes)
    except KeyboardInterrupt:
        print("atenea: stopped; run it again, and it goes on where it is", file=sys.stderr)
        raise


def _download(folder: Path, *, vocals: bool, yes: bool) -> None:
    with StepDisplay() as display:
        there = total_bytes(folder, concerned_files(folder, vocals=vocals))
        planned = plan(folder, vocals=vocals, on_bytes=_meter(display, "check", there))
    if planned.lacking:
        _show_licences(planned)
        if not yes and not typer.confirm("Do you accept these licences?"):
            raise AteneaError("the licences were not accepted; nothing was fetched")
    with StepDisplay() as display:
        carry_out(planned, _meter(display, "download", planned.bytes_in_all, planned.bytes_in_all - planned.bytes_left))
        display.complete()
    size = decimal(total_bytes(folder, planned.paths))
    print(f"{printable(str(folder))}: all {len(planned.paths)} files are there and right, {size}")


def _show_licences(planned: Plan) -> None:
    folder = printable(str(planned.folder))
    print(f"{decimal(planned.bytes_left)} to fetch from {REPOSITORY} at {COMMIT[:7]} into {folder}:")
    for part in (part for part in PARTS if not set(part.paths).isdisjoint(planned.paths)):
        print(f"  {part.name} ({part.purpose}): {part.licence}\n    {part.origin}")


@models.command()
def verify(config: ConfigOption = None) -> int:
    """Check every file against what was fetched, offline. Exits with 1 if one is wrong."""
    folder = load_config(config).paths.models
    with StepDisplay() as display:
        found = verify_files(folder, _meter(display, "check", total_bytes(folder, concerned_files(folder))))
        display.complete()
    for fault in found.faults:
        print(f"atenea: {printable(str(folder))}/{fault}; run atenea models download", file=sys.stderr)
    present = [file for file in found.files if not file.fault]
    if found.commit is None and present:
        for file in present:
            print(f"{file.path}: {file.size} bytes")
        print(
            f"atenea: {printable(str(folder))}: has no {LOCK_FILE}, so nothing vouches for its files; "
            "atenea models download compares them with the hub's and keeps what is right",
            file=sys.stderr,
        )
    if found.faults or found.commit is None:
        return ExitCode.FAILED
    size = decimal(sum(file.size for file in found.files))
    print(f"{printable(str(folder))}: all {len(found.files)} files are right, {size} of {REPOSITORY} at {COMMIT[:7]}")
    return ExitCode.DONE


def _meter(display: StepDisplay, step: str, total: int, done: int = 0) -> OnBytes:
    """Shows on a display how many of `total` bytes are done."""
    start, began = done, time.monotonic()

    def count(what: str, number: int) -> None:
        nonlocal done
        done += number
        rate = (done - start) / max(time.monotonic() - began, 1e-3)
        left = (total - done) / rate if rate > 0 else None
        display.show(step, done / total if total else 1.0, f"{what}, {decimal(done)} of {decimal(total)}", left)

    return count
