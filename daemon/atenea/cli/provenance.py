"""What `atenea show --provenance FILE` says: whether a video is marked as made by AI, and who vouches for that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atenea.errors import ExitCode, UsageError
from atenea.naming import printable

if TYPE_CHECKING:
    from atenea.media.provenance import Provenance

ProvenanceOption = Annotated[
    Path | None,
    typer.Option("--provenance", metavar="FILE", help="Instead of a job: say how this video says that it was made."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", metavar="PEM", help="With --provenance: certificates of the authorities to trust."),
]

_VERDICTS = {
    "none": "has no content credentials",
    "broken": "its content credentials are broken: it was changed after it was signed, or never signed properly",
    "valid": "the signature is valid, but no authority that is trusted stands behind it",
    "trusted": "the signature is valid, and trusted",
}


def show_provenance(file: Path, trust: Path | None, *, as_json: bool) -> int:
    """Print what the file says about how it was made; 1 if that is nothing, or broken.

    Args:
        file: a video, from here or elsewhere.
        trust: certificates in PEM of the authorities to trust.
        as_json: print an object instead of lines.

    Raises:
        UsageError: one of the files cannot be read.
        AteneaError: the extra is missing, or the file carries no content credentials of any kind.
    """
    from atenea.media.provenance import read  # noqa: PLC0415 - heavy, and the other commands do not need it

    provenance = read(file, _certificates(trust) if trust else "")
    if as_json:
        print(json.dumps({"file": str(file), **asdict(provenance)}))
    else:
        print("\n".join(printable(line) for line in _lines(file, provenance)))
    return ExitCode.DONE if provenance.state in {"valid", "trusted"} else ExitCode.FAILED


def _certificates(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UsageError(f"{path}: holds no certificate in PEM")
    return text


def _lines(file: Path, provenance: Provenance) -> Iterator[str]:
    says = "" if provenance.state == "none" else f"made by AI: {'yes' if provenance.made_by_ai else 'does not say'}; "
    yield f"{file}: {says}{_VERDICTS[provenance.state]}"
    facts = {
        "signed by": provenance.signed_by,
        "signed at": provenance.signed_at,
        "made with": provenance.generator,
    }
    yield from (f"  {name}: {value}" for name, value in facts.items() if value)
    for action in provenance.actions:
        yield from _action_lines(action)
    yield from (f"  wrong: {problem}" for problem in provenance.problems)
    yield from (f"  tag {name}: {value}" for name, value in provenance.tags.items())


def _action_lines(action: Mapping[str, Any]) -> Iterator[str]:
    when = f" at {action['when']}" if "when" in action else ""
    source = f": {action['digitalSourceType']}" if "digitalSourceType" in action else ""
    yield f"  {action.get('action')}{when}{source}"
    parameters = action.get("parameters")
    for name, value in sorted((parameters if isinstance(parameters, dict) else {}).items()):
        told = ", ".join(f"{key} {item}" for key, item in sorted(value.items())) if isinstance(value, dict) else value
        yield f"    {name}: {told}"
