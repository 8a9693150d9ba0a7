"""What `atenea doctor` finds out about this machine, in its own checks and in those of plugins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what it was, in a short name such as "key".
        status: "ok"; "note", when jobs work but something is worth knowing; "problem", when jobs would fail.
        text: what was found, in a sentence without a full stop.
        cure: what to do, likewise; empty where all is well.

    Raises:
        ValueError: there is no such status, or a note or problem has no cure.
    """

    check: str
    status: Status
    text: str
    cure: str = ""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"a finding's status is one of {', '.join(get_args(Status))}, not {self.status!r}")
        if self.status != "ok" and not self.cure:
            raise ValueError(f"the {self.status} {self.text!r} has no cure: say what to do")


def finding_of(check: str, status: Status, sentence: str, cure: str) -> Finding:
    """A finding from an error's sentence: what to do stands behind its last semicolon, or else is `cure`."""
    text, _, told = sentence.rpartition("; ")
    return Finding(check, status, text, told) if text else Finding(check, status, sentence, cure)
