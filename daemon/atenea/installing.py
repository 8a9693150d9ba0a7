"""What people type to install Python packages where this atenea finds them."""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path

from atenea.access import WRITE, may


def pip(*arguments: str) -> str:
    """The command line for pip with these arguments, such as `pip("install", "atenea[hallo2]")`.

    It names this Python, because a `pip` that a shell finds may be another's; and sudo, where this user may not write
    among its packages.
    """
    rights = [] if may(Path(sysconfig.get_path("purelib")), WRITE) else ["sudo"]
    return shlex.join([*rights, sys.executable, "-m", "pip", *arguments])
