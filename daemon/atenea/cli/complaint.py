"""How the commands say on standard error what is wrong."""

from __future__ import annotations

import sys

from atenea.naming import printable


def complain(sentence: str) -> None:
    """Print a sentence on one line, whatever is in it."""
    print("atenea:", printable(" ".join(sentence.split())), file=sys.stderr)
