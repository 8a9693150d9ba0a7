"""What a hook gets beside the job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import structlog

from atenea import PermanentError, PluginOptions, TimedText
from atenea.context import Context
from atenea.errors import Cancelled
from atenea.timing import read_timing

_WRONG = ("", "jpg", ".", ".JPG", "..", ".a.b.c", "/x.jpg", ".jp/g", ".jpg\n", ".é", "." + "a" * 17)


@pytest.fixture
def told() -> list[tuple[float, str]]:
    """What a hook said of its progress."""
    return []


@pytest.fixture
def ctx(tmp_path: Path, told: list[tuple[float, str]]) -> Context:
    return Context(
        workdir=tmp_path,
        cache=tmp_path,
        options=PluginOptions(),
        log=structlog.get_logger(),
        on_progress=lambda fraction, text: told.append((fraction, text)),
    )


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [(0.25, 0.25), (0, 0.0), (1, 1.0), (-3, 0.0), (7, 1.0), (float("inf"), 1.0), (float("nan"), 0.0)],
)
def test_progress_is_between_0_and_1(
    ctx: Context, told: list[tuple[float, str]], said: float, passed_on: float
) -> None:
    ctx.progress(said, "words")
    assert told == [(passed_on, "words")]


def test_progress_is_a_number_that_json_knows(ctx: Context, told: list[tuple[float, str]]) -> None:
    ctx.progress(np.float32(0.5))  # type: ignore[arg-type]
    ctx.progress(True)
    assert json.dumps(told) == '[[0.5, ""], [1.0, ""]]'


def test_progress_is_where_a_cancelled_job_stops(ctx: Context) -> None:
    def stop(_fraction: float, _text: str) -> None:
        raise Cancelled

    ctx.on_progress = stop
    with pytest.raises(Cancelled):
        ctx.progress(0.5)


def test_cancelled_passes_through_handlers_of_errors() -> None:
    assert not issubclass(Cancelled, Exception)


@pytest.mark.parametrize("suffix", [".jpg", ".en.srt", ".vtt", ".pt-br.srt", ".a_1"])
def test_files_are_attached_by_their_suffix(ctx: Context, tmp_path: Path, suffix: str) -> None:
    ctx.attach(tmp_path / "first", suffix)
    ctx.attach(tmp_path / "second", suffix)
    assert ctx.attachments == {suffix: tmp_path / "second"}


@pytest.mark.parametrize(
    "suffix",
    [
        "",
        "jpg",
        ".",
        ".JPG",
        "..",
        ".a.b.c",
        "/x.jpg",
        ".jp/g",
        ".jpg\n",
        ".é",
        "." + "a" * 17,
        ".mp4",
        ".json",
        ".error.txt",
        ".progress.txt",
    ],
)
def test_other_suffixes_and_the_daemons_own_are_refused(ctx: Context, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(PermanentError) as caught:
        ctx.attach(tmp_path / "file", suffix)
    assert str(caught.value) == f"cannot attach a file with the suffix {suffix!r}: use one like '.jpg'"
    assert ctx.attachments == {}


def test_timing_is_written_for_later_stages(ctx: Context, tmp_path: Path) -> None:
    pieces = [TimedText("Grüße,", 0.0, 0.5), TimedText("Welt", 0.5, 1.25)]
    ctx.save_timing(iter(pieces))
    assert ctx.timing_file == tmp_path / "timing.json"
    assert read_timing(ctx.timing_file) == tuple(pieces)


def test_without_timing_there_are_no_pieces(tmp_path: Path) -> None:
    assert read_timing(tmp_path / "gone.json") == ()


def test_two_contexts_share_nothing(ctx: Context, tmp_path: Path) -> None:
    other = Context(workdir=tmp_path, cache=tmp_path, options=ctx.options, log=ctx.log, on_progress=ctx.on_progress)
    ctx.report["a"] = 1
    ctx.attach(tmp_path, ".jpg")
    assert (other.report, other.attachments, other.timing) == ({}, {}, ())
