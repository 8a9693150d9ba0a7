"""The espeak plugin, with the real library."""

import wave
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from atenea import PermanentError
from atenea.errors import Cancelled
from atenea.timing import read_timing


@pytest.fixture(scope="module")
def espeak(load_plugin):
    return load_plugin("espeak")


@pytest.fixture
def speak(espeak, make_context, make_job):
    def run(text, **options):
        ctx = make_context(espeak, **options)
        path = espeak.tts(make_job(text), ctx)
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
            samples = np.frombuffer(file.readframes(-1), "<i2")
            return samples, file.getframerate(), read_timing(ctx.timing_file)

    return run


def test_words_are_timed_where_they_sound(speak):
    samples, rate, timing = speak("Hello world. This costs 1,234 dollars \u2013 it's fine.")
    assert [piece.text for piece in timing] == [
        "Hello",
        "world.",
        "This",
        "costs",
        "1,234",
        "dollars \u2013",
        "it's",
        "fine.",
    ]
    assert timing[0].start == 0
    assert timing[-1].end <= len(samples) / rate + 1e-9
    assert all(before.end <= after.start + 1e-9 for before, after in pairwise(timing))
    for piece in timing:
        assert piece.end - piece.start > 0.05
        assert np.abs(samples[int(piece.start * rate) : int(piece.end * rate)]).max() > 1000


def test_scripts_without_spaces(speak):
    _, _, timing = speak("中文字符。你好吗", voice="cmn")
    assert "".join(piece.text for piece in timing) == "中文字符。你好吗"
    assert len(timing) > 4


@pytest.mark.parametrize("text", ["", "...", "\u200b", "\x00\x01\x07", " - \n\u2013 "])
def test_nothing_to_speak(speak, text):
    with pytest.raises(PermanentError, match="nothing to speak"):
        speak(text)


def test_control_characters_do_not_end_the_text(speak):
    _, _, timing = speak("one\x00two \x01+10S three\x15\u00ad four\udc80 five")
    assert [piece.text for piece in timing][-1] == "five"
    assert timing[0].text == "one"


def test_markup_is_not_obeyed(speak):
    _, _, timing = speak('before <break time="60s"/> [[h@\'loU]] after')
    assert timing[-1].text == "after"
    assert timing[-1].end < 15


def test_long_text(speak):
    text = "The quick brown fox jumps over the lazy dog again; it never ends. " * 300
    heard = []
    samples, rate, timing = speak(text, rate=450, on_progress=lambda fraction, _: heard.append(fraction))
    assert " ".join(piece.text for piece in timing) == text.strip()
    assert timing[-1].end == pytest.approx(len(samples) / rate, abs=0.01)
    assert heard == sorted(heard) and heard[-1] > 0.99


def test_cancel_while_speaking(speak):
    calls = []

    def cancel(fraction, text):
        calls.append(fraction)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        speak("word " * 20_000, on_progress=cancel)
    assert len(calls) == 3
    assert speak("And it speaks again.")[2][-1].text == "again."


def test_options_change_the_speech(speak):
    text = "A few words to compare."
    plain = len(speak(text)[0])
    assert len(speak(text, rate=340)[0]) < plain * 0.7
    deep, high = (period(speak(text, pitch=pitch)[0]) for pitch in (0, 99))
    assert high < deep * 0.7


def period(samples):
    """Samples per vibration of the voice, from the autocorrelation."""
    spectrum = np.fft.rfft(samples.astype(float), 2 * len(samples))
    return 60 + np.fft.irfft(np.abs(spectrum) ** 2)[60:400].argmax()


@pytest.mark.parametrize("options", [{"rate": 79}, {"rate": 451}, {"pitch": 100}, {"speed": 3}])
def test_impossible_options(espeak, options):
    with pytest.raises(ValidationError):
        espeak.Options(**options)


@pytest.mark.parametrize("voice", ["en", "EN-us", "en+f3", "English (America)", "pt-br+Mr serious", "zh", "gmw/en-US"])
def test_voices(espeak, make_context, make_job, voice):
    assert espeak.check(make_job("x"), make_context(espeak, voice=voice)) is None


@pytest.mark.parametrize(
    ("voice", "says"),
    [
        ("eng", "no voice 'eng'; the nearest is 'eng"),
        ("en-uk", "no voice 'en-uk'; the nearest is 'en"),
        ("en+f9", "no voice variant 'f9'; the nearest is 'f"),
        ("fo", "without the dictionary of its voice 'fo'"),
        ("", "no voice ''"),
    ],
)
def test_unknown_voices(espeak, make_context, make_job, voice, says):
    assert says in espeak.check(make_job("x"), make_context(espeak, voice=voice))


def test_every_voice_can_be_chosen(espeak):
    with espeak._engine() as engine:
        assert engine.find_voice("en") == "gmw/en"
        assert len(engine._voices()) > 200


def test_long_data_path(espeak, speak, tmp_path, monkeypatch):
    import espeakng_loader

    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    assert speak("It still speaks.")[2][-1].text == "speaks."


def test_diagnose(espeak, make_context, tmp_path, monkeypatch):
    import espeakng_loader

    def found(**options):
        (finding,) = espeak.diagnose(make_context(espeak, **options))
        return finding.status, finding.text, finding.cure

    status, text, _ = found(voice="de")
    assert status == "ok"
    assert text.endswith(" has the voice 'de'")
    assert found(voice="en+f9")[:2] == ("problem", "espeak has no voice variant 'f9'")
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "none.so"))
    status, text, cure = found()
    assert (status, cure) == ("problem", "install espeakng-loader anew")
    assert text.startswith("espeak's library cannot be loaded: ")
