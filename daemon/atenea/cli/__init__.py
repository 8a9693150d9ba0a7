"""The command line: thin; what the commands do is done elsewhere."""

from __future__ import annotations

import sys

import typer

from atenea.cli.app import app
from atenea.errors import AteneaError, ExitCode, MistakesError
from atenea.naming import printable

# Importing these modules registers their commands, in this order.
import atenea.cli.run  # isort: skip
import atenea.cli.queue  # isort: skip
import atenea.cli.look  # isort: skip
import atenea.cli.doctor  # isort: skip
import atenea.cli.models  # isort: skip  # noqa: F401


def main() -> None:
    """Run the command of this process's arguments, and exit with its code."""
    try:
        code = _code()
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; what it has read is enough
        sys.stderr.close()
        code = ExitCode.DONE
    except OSError as error:  # the machine's: a folder that may not be entered, a full disk
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        code = ExitCode.FAILED
    sys.exit(code)


def _code() -> ExitCode:
    try:
        return ExitCode(app(prog_name="atenea", standalone_mode=False) or 0)
    except MistakesError as error:
        for mistake in error.mistakes:
            _complain(f"{error.subject}: {mistake}")
        return error.exit_code
    except AteneaError as error:
        _complain(str(error))
        return error.exit_code
    except typer.TyperException as error:
        _explain(error)
        return ExitCode.USAGE


def _explain(error: typer.TyperException) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help; typer does not export it
        print(error.format_message(), file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    _complain(error.format_message().rstrip(".") + (f"; see {context.command_path} --help" if context else ""))


def _complain(sentence: str) -> None:
    print("atenea:", printable(" ".join(sentence.split())), file=sys.stderr)
