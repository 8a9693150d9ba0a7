"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

_HOLED = """
from pathlib import Path
from atenea.memory import give_back

def megabytes():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) // 1000

pieces = [bytes(1000) for _ in range(200_000)]
del pieces[:-1]  # the last one lies above all others
before = megabytes()
give_back()
print(before - megabytes())
"""


def test_what_lies_free_below_something_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150
