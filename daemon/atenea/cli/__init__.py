"""The command line: thin; what the commands do is done elsewhere.

The queue is looked at again and again, by people and by scripts, so `atenea jobs` does without typer: importing that
takes longer than all the rest.
"""

from __future__ import annotations

import sys

from atenea.cli.complaint import complain
from atenea.cli.listing import list_at_once
from atenea.errors import AteneaError, ExitCode, MistakesError


def main() -> None:
    """Run the command of this process's arguments, and exit with its code."""
    try:
        code = _code(sys.argv[1:])
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; what it has read is enough
        sys.stderr.close()
        code = ExitCode.DONE
    except OSError as error:  # the machine's: a folder that may not be entered, a full disk
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        code = ExitCode.FAILED
    sys.exit(code)


def _code(arguments: list[str]) -> ExitCode:
    try:
        if list_at_once(arguments):
            return ExitCode.DONE
        from atenea.cli.commands import run_command  # noqa: PLC0415

        return run_command(arguments)
    except MistakesError as error:
        for mistake in error.mistakes:
            complain(f"{error.subject}: {mistake}")
        return error.exit_code
    except AteneaError as error:
        complain(str(error))
        return error.exit_code
