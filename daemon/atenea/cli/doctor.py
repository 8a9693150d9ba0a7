"""`atenea doctor`: says what is missing on this machine for what the configuration asks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from atenea.cli.app import ConfigOption, JsonOption, app
from atenea.errors import ExitCode
from atenea.finding import Finding
from atenea.naming import printable

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@app.command()
def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> int:
    """Say what this machine lacks for the configuration, with cures.

    It looks at packages, folders, disk, key, models, GPU, and what else the plugins need; it changes nothing, and works
    with and without a daemon. Run it as the user that the daemon runs as. Exits with 1 if jobs would fail.
    """
    # Here, because the other commands start faster without them.
    from atenea.doctor import examination  # noqa: PLC0415
    from atenea.logs import configure_logging  # noqa: PLC0415

    configure_logging(level=logging.CRITICAL)
    with Console(stderr=True).status("looking at this machine"):
        sections = examination.examine(config)
    said = examination.as_json(sections)
    if as_json:
        print(json.dumps(said))
    else:
        console = Console(highlight=False)
        for line in _lines(sections.items()):
            console.print(line, soft_wrap=True)
    return ExitCode.DONE if said["ok"] else ExitCode.FAILED


def _lines(sections: Iterable[tuple[str, list[Finding]]]) -> Iterable[Text]:
    """Each finding under its heading, its cure on a line of its own, and the sum at the end."""
    counts = dict.fromkeys(_STYLES, 0)
    for title, found in sections:
        yield Text(printable(title), style="bold")
        for finding in found:
            counts[finding.status] += 1
            status = (f"{finding.status:<7}", _STYLES[finding.status])
            yield Text.assemble("  ", status, f"  {printable(finding.check)}: {printable(finding.text)}")
            if finding.cure:
                yield Text(f"           to do: {printable(finding.cure)}")
    problems, notes = counts["problem"], counts["note"]
    verdict = f"{problems} {'problem' if problems == 1 else 'problems'}: jobs would fail" if problems else "no problems"
    yield Text(f"{verdict}{f'; {notes} to know of' if notes else ''}", style="bold")
