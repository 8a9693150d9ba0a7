"""All checks, one after the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from atenea.credentials import redact_all
from atenea.doctor.configuration import read_configuration
from atenea.doctor.folders import folder_findings
from atenea.doctor.ledger import ledger_findings
from atenea.doctor.machine import machine_findings
from atenea.doctor.plugins import PATIENCE_SECONDS, Sections, plugin_sections
from atenea.doctor.running import daemon_findings
from atenea.doctor.space import space_findings
from atenea.finding import Finding


def examine(file: Path | None, *, plugin_seconds: float = PATIENCE_SECONDS) -> Sections:
    """Look at everything that the configuration asks for; changes nothing.

    Args:
        file: the configuration; None for where it is found.
        plugin_seconds: how long each plugin may look at the machine.

    Returns:
        Findings by what they are about: "machine", "configuration", "folders", "daemon", "plugins", and the name of
        each plugin in use. No secret is in them.
    """
    read = read_configuration(file)
    sections = {"machine": list(machine_findings()), "configuration": list(read.findings)}
    if read.config is None:
        unseen = Finding(
            "rest", "note", "nothing else was looked at", "run this again when the configuration is mended"
        )
        sections["configuration"].append(unseen)
        return sections
    sections["folders"] = [*folder_findings(read.config), *space_findings(read.config)]
    state = read.config.paths.state
    sections["daemon"] = [*daemon_findings(state), *ledger_findings(state)]
    for title, found in asyncio.run(plugin_sections(read.config, read.secrets, plugin_seconds)).items():
        sections.setdefault(title, []).extend(found)
    secrets = [*read.secrets.values()]
    return {title: [_redacted(finding, secrets) for finding in found] for title, found in sections.items() if found}


def as_json(sections: Sections) -> dict[str, Any]:
    """What `atenea doctor --json` prints."""
    findings = [
        {"check": f"{title}.{finding.check}", "status": finding.status, "text": finding.text, "cure": finding.cure}
        for title, found in sections.items()
        for finding in found
    ]
    return {"findings": findings, "ok": all(finding["status"] != "problem" for finding in findings)}


def _redacted(finding: Finding, secrets: list[str]) -> Finding:
    return replace(finding, text=redact_all(finding.text, secrets), cure=redact_all(finding.cure, secrets))
