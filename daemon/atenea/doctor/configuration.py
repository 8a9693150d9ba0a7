"""The configuration: whether it can be read, and is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from atenea.config import Config, load_config
from atenea.credentials import find_secrets
from atenea.errors import ConfigError
from atenea.finding import Finding, finding_of


@dataclass(frozen=True)
class Read:
    """What the configuration says.

    Attributes:
        config: None if it cannot be used.
        secrets: environment variables; none if where they stand cannot be used.
        findings: about both.
    """

    config: Config | None
    secrets: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def read_configuration(file: Path | None) -> Read:
    """The configuration from `file`, or from where it is found."""
    try:
        config = load_config(file)
    except ConfigError as error:
        return Read(None, findings=tuple(mistake_findings("file", error)))
    named = f"{config.file} can be read" if config.file else "there is no file, so the defaults hold"
    found = [Finding("file", "ok", named)]
    try:
        return Read(config, find_secrets(config.file), tuple(found))
    except ConfigError as error:
        return Read(config, findings=(*found, *mistake_findings("secrets", error)))


def mistake_findings(check: str, error: ConfigError) -> list[Finding]:
    """A problem for each mistake."""
    cure = "mend it; docs/reference.md has every key"
    return [finding_of(check, "problem", f"{error.subject}: {mistake}", cure) for mistake in error.mistakes]
