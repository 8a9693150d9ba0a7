"""Reads a picture or a sound as a worker does, in a process of its own, and prints its peak memory and what came of it.

`python hostile_media.py picture|sound FILE PIXELS|SECONDS`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from atenea.errors import PermanentError
from atenea.media.audio import write_wav
from atenea.media.pictures import load_avatar


def main(kind: str, file: Path, limit: float) -> None:
    """Read the file."""
    try:
        if kind == "picture":
            came = str(load_avatar(file, max_pixels=int(limit)).size)
        else:
            came = str(write_wav(file, file.with_name("out.wav"), max_seconds=limit))
    except PermanentError as error:
        came = f"refused: {error}"
    # Not getrusage's, which counts what the process was before it became this program.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"came": came, "mebibytes": peak // 1024}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
