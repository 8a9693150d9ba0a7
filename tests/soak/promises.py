"""Tries what a document promises, at length, and says of each promise whether it held: `make soak`.

`python promises.py DOCUMENT`: each row of its tables is a promise, and names the files of the tests that try it, below
the working directory; "the same" are those of the row above. All of them are run. A test says what it counted with
pytest's `record_property(NAME, FIGURE)`: NAME is a part of the promise's text, and FIGURE a text, or a number and what
it counts, which is summed over all tests.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RULE = re.compile(r"[|-]+$")
HELD = "held"
FILE = re.compile(r"`(tests/[\w/]+\.py)`")


@dataclass(frozen=True)
class Promise:
    """A row of the document: what is promised, and the files that try it."""

    text: str
    files: tuple[str, ...]


def promises(document: str) -> list[Promise]:
    """The promises of a document, in order.

    Raises:
        ValueError: one names no test.
    """
    found: list[Promise] = []
    for line, below in itertools.pairwise((*document.splitlines(), "")):
        if not line.startswith("|") or RULE.match(line) or RULE.match(below):
            continue
        text, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        files = found[-1].files if "the same" in cells else tuple(FILE.findall(" ".join(cells)))
        if not files:
            raise ValueError(f"no test is named for this promise: {text}")
        found.append(Promise(text.replace("`", "").rstrip("."), files))
    return found


@dataclass
class Tried:
    """What came of the tests of one file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    figures: list[tuple[str, object]] = field(default_factory=list)


class Tally:
    """A plugin of pytest that notes what comes of each file's tests."""

    def __init__(self) -> None:
        self.files: dict[str, Tried] = defaultdict(Tried)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test was set up, called or torn down."""
        tried = self.files[report.nodeid.partition("::")[0]]
        if report.when == "call" or not report.passed:
            tried.outcomes[report.outcome] += 1
        if report.when == "call":
            tried.figures += report.user_properties

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported holds no promise."""
        if report.failed:
            self.files[report.nodeid].outcomes["failed"] += 1

    def verdict(self, promise: Promise) -> str:
        """Whether the promise held: every file that tries it must have tried it, and found nothing."""
        tried = [self.files[name].outcomes for name in promise.files]
        if any(outcomes["failed"] for outcomes in tried):
            return "BROKEN"
        return HELD if all(outcomes["passed"] for outcomes in tried) else "UNTRIED"

    def counts(self, promise: Promise) -> str:
        """In how many cases."""
        tried = [self.files[name] for name in promise.files]
        figures = [figure for one in tried for name, figure in one.figures if name in promise.text]
        outcomes = sum((one.outcomes for one in tried), Counter[str]())
        left_out = f", {outcomes['skipped']:,} left out" if outcomes["skipped"] else ""
        return "; ".join((*summed(figures), f"{outcomes['passed']:,} tests{left_out}"))


def summed(figures: list[object]) -> list[str]:
    """Figures as text: numbers of the same things together."""
    numbers: Counter[str] = Counter()
    texts: dict[str, None] = {}
    for figure in figures:
        if isinstance(figure, str):
            texts[figure] = None
        else:
            number, unit = figure  # type: ignore[misc]
            numbers[unit] += number
    return [*(f"{number:,} {unit}" for unit, number in numbers.items()), *texts]


def main(document: Path) -> int:
    """Try everything; 0 if all promises held."""
    os.environ.setdefault("SOAK_STATES", "0")
    rows = promises(document.read_text())
    tally = Tally()
    files = dict.fromkeys(name for promise in rows for name in promise.files)
    code = pytest.main(["-s", "--rootdir", ".", *files], plugins=[tally])
    print()
    for promise in rows:
        print(f"{tally.verdict(promise):7} {promise.text}: {tally.counts(promise)}")
    return int(code) or any(tally.verdict(promise) != HELD for promise in rows)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
