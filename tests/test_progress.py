"""How far a running step is: its pace, the time left, frames per second."""

from __future__ import annotations

import time

import pytest

from atenea.estimate import Forecast
from atenea.progress import Progress


class Step:
    """A step that reports at moments of a clock of its own, in seconds since its start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, forecast: Forecast | None = None) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.progress = Progress("render", "hallo2", forecast=forecast, _since=self.now)

    def reports(self, *reports: tuple[float, float]) -> Progress:
        for moment, fraction in reports:
            self.now = 1000.0 + moment
            self.progress.update(fraction, f"{fraction:.0%}")
        return self.progress


def test_nothing_is_known_before_there_is_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, Forecast(frames=100, seconds=None))
    assert (step.progress.seconds_left, step.progress.frames_per_second) == (None, None)
    progress = step.reports((5, 0.0), (10, 0.25), (20, 0.25))
    assert (progress.fraction, progress.text) == (0.25, "25%")
    assert (progress.seconds_left, progress.frames_per_second) == (None, None)


def test_what_came_before_the_first_fraction_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, Forecast(frames=100, seconds=None))
    progress = step.reports((0, 0.0), (60, 0.25), (70, 0.5))  # loading took a minute
    assert (progress.seconds_left, progress.frames_per_second) == (20.0, 2.5)
    progress = step.reports((90, 0.75))
    assert (progress.seconds_left, progress.frames_per_second) == (15.0, 50 / 30)


def test_an_attempt_that_goes_on_measures_only_what_it_does_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, Forecast(frames=1000, seconds=None))
    progress = step.reports((0, 0.0), (4, 0.75), (12, 0.875))
    assert (progress.seconds_left, progress.frames_per_second) == (8.0, 125 / 8)


def test_a_pace_does_not_change_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, Forecast(frames=100, seconds=None))
    progress = step.reports((0, 0.25), (10, 0.5), (15, 0.5))
    step.now += 500
    assert (progress.seconds_left, progress.frames_per_second) == (20.0, 2.5)


def test_a_step_that_begins_again_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch)
    progress = step.reports((0, 0.25), (10, 0.5), (20, 0.0), (100, 0.125), (110, 0.25))
    assert progress.seconds_left == 60.0


def test_at_the_end_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Step(monkeypatch, Forecast(frames=10, seconds=7.0)).reports((0, 0.5), (5, 1.0), (9, 1.0))
    assert (progress.seconds_left, progress.frames_per_second) == (0.0, 1.0)


def test_until_it_has_a_pace_a_render_goes_by_its_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, Forecast(frames=100, seconds=80.0))
    assert step.progress.seconds_left == 80.0
    assert step.reports((30, 0.0)).seconds_left == 50.0
    assert step.reports((40, 0.5)).seconds_left == 40.0  # half of it was done before
    assert step.reports((50, 0.75)).seconds_left == 10.0  # by its own pace
    step = Step(monkeypatch, Forecast(frames=100, seconds=80.0))
    assert step.reports((80, 0.0)).seconds_left is None  # it was wrong


def test_only_renders_have_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Step(monkeypatch).reports((0, 0.25), (1, 0.5)).frames_per_second is None
