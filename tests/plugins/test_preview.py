"""The preview plugin: exact frames, the words in time, constant memory."""

import tracemalloc
import wave

import av
import numpy as np
import pytest
from PIL import Image, ImageFont
from pydantic import ValidationError

from atenea import PermanentError, TimedText
from atenea.errors import Cancelled
from atenea.media.audio import frame_count
from atenea.media.mux import check_video


@pytest.fixture(scope="module")
def preview(load_plugin):
    return load_plugin("preview")


@pytest.fixture
def render(preview, make_context, make_job):
    def run(wav, text=None, *, timing=(), speech=None, avatar=None, on_progress=lambda *_: None, **options):
        options = {"width": 64, "height": 64, **options}
        ctx = make_context(preview, on_progress=on_progress, **options)
        ctx.timing, ctx.speech = tuple(timing), speech
        return preview.render(make_job(text, avatar=avatar), wav, ctx)

    return run


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("samples", "fps"), [(1, 25), (639, 25), (640, 25), (641, 25), (16_001, 25), (40_000, 30),
                                              (16_000, 1), (5_000, 60)])  # fmt: skip
def test_exact_frames(render, make_wav, samples, fps):
    video = render(make_wav(samples), "Some words to show.", fps=fps)
    check_video(video, samples)
    assert len(pictures(video)) == frame_count(samples, fps)


def test_same_input_same_bytes(render, make_wav):
    wav = make_wav(32_000)
    assert render(wav, "Twice.").read_bytes() == render(wav, "Twice.").read_bytes()


def test_avatar_is_shown(render, make_wav, tmp_path):
    Image.new("RGB", (300, 200), (20, 160, 60)).save(tmp_path / "a.png")
    picture = pictures(render(make_wav(8_000), avatar=tmp_path / "a.png", width=256, height=256))[3]
    assert np.abs(picture[100, 128] - (20, 160, 60)).max() < 8


def test_bars_and_mouth_move_with_the_voice(render, make_wav, preview, tmp_path):
    frames = pictures(render(make_wav(32_000), width=256, height=256))
    bars = np.array([frame[184:186, 100:156].mean() for frame in frames])
    mouth = np.array([frame[140:168, 110:146].mean() for frame in frames])
    assert np.ptp(bars) > 5 and np.ptp(mouth) > 5
    still = [frame[40:60, 20:230].mean() for frame in frames]
    assert np.ptp(still) < 1


def yellow(picture):
    """How far to the right the word that is spoken is."""
    return np.argwhere((picture[400:490, :, 0] > 180) & (picture[400:490, :, 2] < 150))[:, 1].mean()


def test_words_light_up_when_they_are_spoken(render, make_wav, preview):
    timing = [TimedText("left", 0.0, 1.0), TimedText("right", 1.0, 2.0)]
    frames = pictures(render(make_wav(32_000), timing=timing, width=512, height=512))
    assert yellow(frames[12]) < 256 < yellow(frames[40])


def test_words_move_with_what_the_audio_stage_adds(render, make_wav, preview, tmp_path):
    speech = make_wav(32_000)
    with wave.open(str(speech)) as said, wave.open(str(tmp_path / "later.wav"), "wb") as later:
        later.setparams(said.getparams())
        later.writeframes(bytes(2 * 16_000) + said.readframes(-1))
    timing = [TimedText("left", 0.0, 1.0), TimedText("right", 1.0, 2.0)]
    video = render(tmp_path / "later.wav", timing=timing, speech=speech, width=512, height=512)
    assert [yellow(frame) < 256 for frame in pictures(video)[37:67:29]] == [True, False]


def test_words_without_timing_are_spread(render, make_wav):
    with_words = pictures(render(make_wav(16_000), "Here are words", width=256, height=256))[10]
    without = pictures(render(make_wav(16_000), width=256, height=256))[10]
    assert np.abs(with_words - without)[200:250].max() > 80
    assert np.abs(with_words - without)[:150].mean() < 1


def test_pages(preview):
    font = ImageFont.load_default(26)
    words = [TimedText(f"word{number}", number * 0.5, number * 0.5 + 0.5) for number in range(200)]
    words += [TimedText("x" * 5000, 101, 102), TimedText("end.", 110, 111)]
    captions = preview.Captions(words, font, 512)
    seen = []
    for step in range(112 * 25):
        state = captions.at(step / 25)
        page = captions._page
        if state is not None:
            shown = page.words[state[1]].word if state[1] >= 0 else None
            assert shown is None or shown.start <= step / 25
            if shown is not None and shown not in seen:
                seen.append(shown)
            assert all(0 <= placed.x <= 461 and placed.line < 2 for placed in page.words)
    assert seen == words
    assert captions.at(105) is None or captions.at(112).__class__ is tuple


def test_right_to_left_starts_at_the_right(preview):
    words = [TimedText(text, index, index + 1) for index, text in enumerate(["שלום", "עולם"])]
    captions = preview.Captions(words, ImageFont.load_default(26), 512)
    captions.at(0.5)
    first, second = captions._page.words
    assert first.x > second.x


def test_cancel(render, make_wav, tmp_path):
    calls = []

    def cancel(fraction, words):
        calls.append(fraction)
        if len(calls) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        render(make_wav(160_000), on_progress=cancel)
    assert calls == pytest.approx([0, 10 / 250, 20 / 250, 30 / 250])
    assert not list((tmp_path / "stage").glob("*.mp4"))


@pytest.mark.parametrize("options", [{"width": 128, "height": 64}, {"width": 100, "height": 100},
                                     {"width": 2112, "height": 2112}, {"fps": 0}, {"fps": 61}])  # fmt: skip
def test_impossible_options(preview, options):
    with pytest.raises(ValidationError):
        preview.Options(**options)


def test_font_that_is_none(preview, make_context, make_job, tmp_path):
    (tmp_path / "font.ttf").write_text("no font")
    said = preview.check(make_job("x"), make_context(preview, font=tmp_path / "font.ttf"))
    assert "font.ttf is no font file" in said
    assert preview.check(make_job("x"), make_context(preview)) is None


def test_font_of_the_machine_is_found_for_other_scripts(preview, tmp_path, monkeypatch):
    options = preview.Options()
    default = preview._choose_font(options, "Latin")
    assert preview._missing(default, list("Latin")) == 0
    assert preview._missing(default, list("日本")) == 2
    monkeypatch.setattr(preview, "FONT_FOLDERS", (tmp_path,))
    (tmp_path / "NotoSansBroken-Regular.ttf").write_text("no font")
    assert preview._choose_font(options, "日本").getname() == default.getname()


def test_broken_avatar_is_named(render, make_wav, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(PermanentError, match=r"a\.png is no picture"):
        render(make_wav(8_000), avatar=tmp_path / "a.png")


def test_memory_does_not_grow_with_length(render, make_wav):
    peaks = []
    for seconds in (20, 80):
        wav = make_wav(16_000 * seconds)
        tracemalloc.start()
        render(wav, "word " * 3 * seconds, fps=5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000
