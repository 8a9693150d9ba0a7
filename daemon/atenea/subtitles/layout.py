"""Lays subtitles out as broadcasters do: when each is shown, and what stands on its lines.

The cues of a run of speech are chosen together, by the least sum of costs: a cue had better end with a sentence or a
clause, be seen long enough, be neither nearly empty nor full of a sentence's end and the next one's beginning.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations, pairwise

from atenea.speech.sentences import Pause
from atenea.subtitles.atoms import Atom

SHORTEST, LONGEST = 1.0, 7.0
"""Seconds that a cue is seen: less only where the next one begins already."""

_NEW_RUN = 1.5
"""A cue never spans a silence of so many seconds."""

_HEARD_PAUSE = 0.2
"""From so many seconds of silence on, a pause is a good end for a cue."""

_CLAUSE = re.compile("[,;:\u2013\u2014\u060c\u061b\u3001\uff0c\uff1a\uff1b][^\\w\\s]*\\Z")

# What the ends and shapes of cues cost; only their proportions matter.
_AFTER_CLAUSE, _AFTER_PAUSE, _AFTER_WORD, _INSIDE_WORD = 25.0, 40.0, 80.0, 100.0
_EACH, _TOO_SHORT, _EMPTY, _SECOND_SENTENCE, _TORN_SENTENCE, _SILENCE = 30.0, 200.0, 30.0, 60.0, 50.0, 60.0


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from `start` to `end` seconds, whole milliseconds."""

    start: float
    end: float
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines, one below the other."""
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Shape:
    """The most that a cue may hold: lines, and columns of each (a Chinese or Japanese character takes two)."""

    columns: int = 42
    lines: int = 2


def cues(atoms: Sequence[Atom], shape: Shape, seconds: float) -> list[Cue]:
    """The cues for all atoms, in order; none begins before the one before it has ended.

    Args:
        atoms: none wider than a line, spoken one after the other. Those that lie outside of the speech are left out.
        shape: of a cue.
        seconds: how long the speech lasts; no cue is shown later.
    """
    laid: list[Cue] = []
    heard = _in_order(atoms, seconds)
    for first, last in _runs(heard):
        until = heard[last].start if last < len(heard) else seconds
        laid += _Run(heard[first:last], shape, until).cues()
    return list(_apart(laid))


def _in_order(atoms: Sequence[Atom], seconds: float) -> list[Atom]:
    """The atoms that are heard in the speech, none spoken before the one before it is."""
    now, heard = 0.0, []
    for atom in atoms:
        if atom.end <= 0 or atom.start >= seconds:
            continue
        start = min(max(now, atom.start), seconds)
        now = min(max(start, atom.end), seconds)
        heard.append(replace(atom, start=start, end=now))
    return heard


def _runs(atoms: Sequence[Atom]) -> Iterator[tuple[int, int]]:
    """Where the runs of speech begin and end that no cue spans."""
    borders = [
        number
        for number, (atom, following) in enumerate(pairwise(atoms), 1)
        if following.pause is Pause.PARAGRAPH or following.start - atom.end >= _NEW_RUN
    ]
    return pairwise([0, *borders, len(atoms)] if atoms else [])


class _Run:
    """Speech without a long silence. Cues are pairs of indices: the first atom, and the one after the last."""

    def __init__(self, atoms: Sequence[Atom], shape: Shape, until: float) -> None:
        self._atoms = atoms
        self._shape = shape
        self._starts = [*(atom.start for atom in atoms), until]
        # How far right each atom ends if everything stood on one line.
        self._columns = list(accumulate((atom.space + atom.width for atom in atoms), initial=0))
        self._breaks = [0.0, *(_break_cost(*pair) for pair in pairwise(atoms)), 0.0]
        sentences = (0 if atom.pause is Pause.NONE else number for number, atom in enumerate(atoms))
        self._sentence = list(accumulate(sentences, max))
        self._inner = list(accumulate((_inner_cost(*pair) for pair in pairwise(atoms)), initial=0.0))

    def cues(self) -> Iterator[Cue]:
        """The cues that cost least together."""
        for first, last in self._cuts():
            start = self._starts[first]
            end = min(self._end(first, last), start + LONGEST)
            yield Cue(start, end, tuple(self._text(*line) for line in self._lines(first, last)))

    def _cuts(self) -> list[tuple[int, int]]:
        """Where they begin and end."""
        count = len(self._atoms)
        costs = [0.0] + [float("inf")] * count
        came_from = [0] * (count + 1)
        for first in range(count):
            for last in self._possible(first):
                cost = costs[first] + self._cost(first, last)
                if cost < costs[last]:
                    costs[last], came_from[last] = cost, first
        cuts = []
        while count:
            cuts.append((came_from[count], count))
            count = came_from[count]
        return cuts[::-1]

    def _possible(self, first: int) -> Iterator[int]:
        """Where a cue can end that begins here."""
        last, lines = first, 0
        while lines < self._shape.lines and last < len(self._atoms):
            full = self._full(last)
            for end in range(last + 1, full + 1):
                if end > first + 1 and self._atoms[end - 1].end - self._starts[first] > LONGEST:
                    return
                yield end
            last, lines = full, lines + 1

    def _full(self, first: int) -> int:
        """Where a line ends that begins here and holds as much as it can; one atom at least."""
        left = self._columns[first] + self._atoms[first].space
        return max(first + 1, bisect_right(self._columns, left + self._shape.columns) - 1)

    def _cost(self, first: int, last: int) -> float:
        shown = self._end(first, last) - self._starts[first]
        torn = self._breaks[last] > 0 and self._sentence[last - 1] > first
        filled = min(1.0, self._width(first, last) / (self._shape.columns * self._shape.lines))
        return (
            _EACH
            + self._breaks[last]
            + self._inner[last - 1]
            - self._inner[first]
            + _TORN_SENTENCE * torn
            + _TOO_SHORT * max(0.0, SHORTEST - shown)
            + _EMPTY * (1 - filled) ** 2
        )

    def _end(self, first: int, last: int) -> float:
        """When the cue goes: with its last word, or a little later if it was short."""
        return max(self._atoms[last - 1].end, min(self._starts[first] + SHORTEST, self._starts[last]))

    def _width(self, first: int, last: int) -> int:
        return self._columns[last] - self._columns[first] - self._atoms[first].space

    def _text(self, first: int, last: int) -> str:
        return "".join(" " * atom.space + atom.text for atom in self._atoms[first:last]).strip(" ")

    def _lines(self, first: int, last: int) -> list[tuple[int, int]]:
        """The lines of a cue: as few as possible, broken where it hurts least, of about the same length."""
        fewest, reached = 0, first
        while reached < last:
            fewest, reached = fewest + 1, self._full(reached)
        inner = range(first + 1, last)
        layouts = (list(pairwise([first, *places, last])) for places in combinations(inner, fewest - 1))
        return min(filter(self._fits, layouts), key=self._raggedness)

    def _fits(self, lines: Sequence[tuple[int, int]]) -> bool:
        return all(last == first + 1 or self._width(first, last) <= self._shape.columns for first, last in lines)

    def _raggedness(self, lines: Sequence[tuple[int, int]]) -> float:
        """The last line had better be the longest: less of the picture is covered."""
        widths = [self._width(first, last) for first, last in lines]
        uneven = sum(abs(above - below) + (above > below) for above, below in pairwise(widths))
        return uneven + sum(self._breaks[first] / 4 for first, _ in lines[1:])


def _break_cost(atom: Atom, following: Atom) -> float:
    """What it costs to end a cue or a line between the two."""
    if following.pause is not Pause.NONE:
        return 0.0
    if _CLAUSE.search(atom.text):
        return _AFTER_CLAUSE
    if following.start - atom.end >= _HEARD_PAUSE:
        return _AFTER_PAUSE
    return _AFTER_WORD if following.space else _INSIDE_WORD


def _inner_cost(atom: Atom, following: Atom) -> float:
    """What it costs not to end a cue between the two."""
    silence = max(0.0, following.start - atom.end - _HEARD_PAUSE)
    return _SECOND_SENTENCE * (following.pause is not Pause.NONE) + _SILENCE * silence


def _apart(cues: Sequence[Cue]) -> Iterator[Cue]:
    """The cues in whole milliseconds, each seen for one at least, whatever times a plugin has told."""
    now = 0.0
    for cue in cues:
        start = max(now, round(cue.start, 3))
        now = round(max(cue.end, start + 0.001), 3)
        yield Cue(start, now, cue.lines)
