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
    sys.exit(_code())


def _code() -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except MistakesError as error:
        for mistake in error.mistakes:
            _complain(f"{error.subject}: {mistake}")
        return int(error.exit_code)
    except AteneaError as error:
        _complain(str(error))
        return int(error.exit_code)
    except typer.TyperException as error:
        _complain(error.format_message())
        return int(ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone; what it has read is enough
        sys.stderr.close()
        return int(ExitCode.DONE)


def _complain(sentence: str) -> None:
    print("atenea:", printable(" ".join(sentence.split())), file=sys.stderr)
