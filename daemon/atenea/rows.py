"""The ledger's rows as the rest of the daemon sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FINAL_STATES = frozenset({"done", "failed", "cancelled"})


def join_needs(needs: frozenset[str]) -> str:
    """A set of needs as the ledger writes it."""
    return ",".join(sorted(needs))


def split_needs(needs: str) -> frozenset[str]:
    """What `join_needs` joined."""
    return frozenset(needs.split(","))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a job: intake, a stage, mux (adds the speech to the picture), or publish."""

    stage: str
    plugin: str = ""
    needs: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The state of a job while this step runs."""
        return {"intake": "queued", "mux": "post", "publish": "post"}.get(self.stage, self.stage)

    def does_the_same(self, other: Step) -> bool:
        """Whether the other step would make the same of the same."""
        mine, others = dict(self.options), dict(other.options)
        return (self.stage, self.plugin, mine) == (other.stage, other.plugin, others)


INTAKE = Step(stage="intake", needs=frozenset({"intake"}))
MUX = Step(stage="mux", needs=frozenset({"cpu"}))
PUBLISH = Step(stage="publish", needs=frozenset({"publish"}))


@dataclass(frozen=True, kw_only=True)
class StepRow(Step):
    """A step in the ledger; `result` is None until it is done."""

    position: int
    failures: int
    seconds: float | None
    result: Mapping[str, Any] | None

    @property
    def workdir(self) -> str:
        """The step's own folder, relative to the job's."""
        number = f"-{self.position}" if self.stage == "post" else ""
        return f"work/{self.stage}{number}"


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job in the ledger; times are seconds since 1970."""

    id: str
    name: str
    state: str
    preset: str | None
    priority: int
    position: int
    needs: str | None
    created: float
    started: float | None
    finished: float | None
    not_before: float
    deaths: int
    relative: str
    source: Mapping[str, Any]
    fingerprint: str
    refusal: str | None
    waiting: Mapping[str, Any]
    content: str | None
    stem: str | None
    publishing: Mapping[str, str] | None
    outputs: Mapping[str, str]
    error: str | None
    details: str | None
    cleaned: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> JobRow:
        """From a row of the table `jobs`."""
        values = {name: row[name] for name in cls.__dataclass_fields__}
        for name in ("relative", "source", "publishing"):
            values[name] = json.loads(values[name]) if values[name] is not None else None
        for name in ("waiting", "outputs"):
            values[name] = json.loads(values[name]) if values[name] is not None else {}
        values["cleaned"] = bool(values["cleaned"])
        return cls(**values)

    @property
    def is_final(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One attempt at a step."""

    stage: str
    plugin: str
    started: float
    ended: float | None
    outcome: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class RenderRow:
    """A render, done or to be done, and what its pace depends on.

    Attributes:
        samples: of the speech, at 16 kHz.
        given: the plugin's options as the job, its preset and the configuration give them.
        options: all of them, defaults too; None until it is done.
        seconds: what it took; None until it is done.
    """

    job_id: str
    plugin: str
    samples: int
    given: Mapping[str, Any]
    options: Mapping[str, Any] | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RenderRow:
        """From a row with the columns of the same names, of which `given` and `options` are JSON."""
        values = {**row, "given": json.loads(row["given"]), "options": json.loads(row["options"] or "null")}
        return cls(**values)
