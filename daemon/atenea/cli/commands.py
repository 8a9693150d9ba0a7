"""The commands as typer knows them, and what it says of a command line that is wrong."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from atenea.cli.app import app
from atenea.cli.complaint import complain
from atenea.errors import ExitCode

_COMMANDS = {
    "run": ("run", "generate"),
    "submit": ("submit",),
    "queue": ("jobs", "show", "cancel", "retry", "pause", "resume"),
    "look": ("check", "plugins"),
    "doctor": ("doctor",),
    "models": ("models",),
}
"""Modules of this package, and the commands that importing them registers; in the order in which the help has them."""


def register(command: str | None = None) -> None:
    """Register one command, and those of its module; all of them for the help, and for a name that is none."""
    of_command = [module for module, commands in _COMMANDS.items() if command in commands]
    for module in of_command or _COMMANDS:
        import_module(f"{__package__}.{module}")


def run_command(arguments: list[str]) -> ExitCode:
    """Run the command of a command line; its exit code.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    register(next((word for word in arguments if not word.startswith("-")), None))
    try:
        return ExitCode(app(arguments, prog_name="atenea", standalone_mode=False) or 0)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        _explain(error)
        return ExitCode.USAGE


def _explain(error: typer.TyperException) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help; typer does not export it
        print(error.format_message(), file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    complain(error.format_message().rstrip(".") + (f"; see {context.command_path} --help" if context else ""))
