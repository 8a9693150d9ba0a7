"""The application that the commands belong to, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import atenea
from atenea.errors import ExitCode


def examples(*lines: str, heading: str = "Examples:") -> str:
    """The epilog of a command's help."""
    return "\n".join(["\b", heading, *(f"  {line}" for line in lines)])


app = typer.Typer(
    name="atenea",
    help="Turns text files dropped into a folder into talking-head videos.",
    epilog=examples(
        "atenea generate -i hello.txt       one video; this needs nothing else",
        "atenea run                         the daemon; then, in another terminal:",
        "atenea submit --wait hello.txt     or copy hello.txt into the inbox",
        "atenea doctor                      when something is wrong",
        heading="Begin with:",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes are broad, no good in pipes, and name the types of flags
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandWithArguments(TyperCommand):
    """A command whose help shows its arguments as people write them: typer adds braces and Python's types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the command's name in the first line of its help."""
        return [self.options_metavar or "", *map(argument_usage, self._shown(ctx, "argument"))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help's lists of arguments and options."""
        with formatter.section("Arguments"):
            formatter.write_dl([(_name(argument), argument.help) for argument in self._shown(ctx, "argument")])
        with formatter.section("Options"):
            formatter.write_dl([option.get_help_record(ctx) for option in self._shown(ctx, "option")])

    def _shown(self, ctx: Any, kind: str) -> list[Any]:
        return [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == kind]


def argument_usage(argument: Any) -> str:
    """An argument in a line of usage: "FILE..." if it takes several, "[FILE]" if it may be left out."""
    return _name(argument) if argument.required else f"[{_name(argument)}]"


def _name(argument: Any) -> str:
    return f"{argument.metavar}{'...' if argument.nargs != 1 else ''}"


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
