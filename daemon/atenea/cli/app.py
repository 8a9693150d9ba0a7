"""The application that the commands belong to, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import atenea
from atenea.errors import ExitCode

app = typer.Typer(
    name="atenea",
    help="Turns text files dropped into a folder into talking-head videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes are broad, no good in pipes, and name the types of flags
    context_settings={"help_option_names": ["-h", "--help"]},
)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration; otherwise $ATENEA_CONFIG, ./etc/atenea.toml, /etc/atenea/atenea.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atenea {atenea.__version__}")
        raise typer.Exit(ExitCode.DONE)


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _app(version: VersionOption = False) -> None:
    pass
