"""The subtitles plugin: its files and its track, read back by FFmpeg's own demuxers."""

from __future__ import annotations

import wave
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from pydantic import ValidationError

from atenea import TimedText
from atenea.media.audio import frame_count, wav_info, write_wav
from atenea.media.mux import VideoWriter, add_speech
from atenea.subtitles.languages import three_letters
from atenea.subtitles.layout import Cue
from atenea.subtitles.track import add_text_track
from atenea.timing import read_timing

TEXT = "Drop a text file into my inbox. I will turn it into a video, I promise.\n\nGoodbye!"


@pytest.fixture(scope="module")
def subtitles(load_plugin):
    return load_plugin("subtitles")


@pytest.fixture
def film(tmp_path):
    """A video with the speech of a WAV in it, as the mux step makes it."""

    def make(wav: Path) -> Path:
        samples = wav_info(wav)
        with VideoWriter(tmp_path / "silent.mp4", 64, 64, 25) as writer:
            for _ in range(frame_count(samples, 25)):
                writer.write(np.zeros((64, 64, 3), np.uint8))
        target = tmp_path / "film.mp4"
        add_speech(tmp_path / "silent.mp4", wav, samples, target, metadata={"title": "film", "comment": "artificial"})
        return target

    return make


@pytest.fixture
def run(subtitles, make_context, make_job, make_wav, film):
    """Run the plugin over eight seconds of sound; the video it made or left, and its context."""

    def call(text=TEXT, *, timing=(), wav=None, speech=None, voice=None, **options):
        wav = wav or make_wav(8 * 16000)
        stages = ({"stage": "tts", "plugin": "espeak", "options": {"voice": voice} if voice else {}},)
        given = {"wav": wav, "speech": speech or wav, "timing": tuple(timing), "stages": stages}
        ctx = replace(make_context(subtitles, **options), **given)
        video = film(wav)
        return subtitles.post(make_job(text), video, ctx) or video, ctx

    return call


@pytest.fixture
def spoken(load_plugin, make_context, make_job, tmp_path):
    """What espeak says: its timing and the 16 kHz WAV."""

    def speak(text):
        espeak = load_plugin("espeak")
        ctx = make_context(espeak, stage="tts")
        speech = espeak.tts(make_job(text), ctx)
        write_wav(speech, tmp_path / "spoken.wav", max_seconds=600)
        return read_timing(ctx.timing_file), tmp_path / "spoken.wav"

    return speak


def cues_of(path: Path) -> list[tuple[float, float, str]]:
    """Start, end and text of each cue of a file or a track, as FFmpeg demuxes them; empty ones are gaps."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
        unit = packets[0].time_base if packets else 0
        return [
            (float(packet.pts * unit), float((packet.pts + packet.duration) * unit), text)
            for packet in packets
            if (text := _text(packet, container.format.name))
        ]


def _text(packet: av.Packet, container: str) -> str:
    data = bytes(packet)
    return (data[2:] if "mp4" in container else data).decode()


def decoded(path: Path) -> list[str]:
    """What FFmpeg would show, as ASS."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        found = [stream.decode2(packet) for packet in container.demux(stream) if packet.size]
        return [bytes(rect.ass).decode().split(",", 8)[8] for shown in found if shown for rect in shown]


def test_files_and_track_say_the_same_at_the_same_time(run):
    timing = [
        TimedText("Drop a text file into my inbox.", 0.25, 2.5),
        TimedText("I will turn it into a video, I promise.", 2.5, 5.75),
        TimedText("Goodbye!", 6.5, 7.75),
    ]
    video, ctx = run(timing=timing)
    found = [
        (0.25, 2.5, "Drop a text file into my inbox."),
        (2.5, 5.75, "I will turn it into a video, I promise."),
        (6.5, 7.75, "Goodbye!"),
    ]
    assert list(ctx.attachments) == [".srt", ".vtt"]
    for path in (*ctx.attachments.values(), video):
        cues = cues_of(path)
        assert [text for _, _, text in cues] == [text for _, _, text in found]
        assert [time for *times, _ in cues for time in times] == pytest.approx(
            [time for *times, _ in found for time in times], abs=0.02
        )
    assert ctx.report == {"cues": 3, "language": None}


def test_the_files_as_they_are_written(run):
    _, ctx = run("One & two.", timing=[TimedText("One & two.", 1.0, 3.0)])
    srt, vtt = (path.read_text() for path in ctx.attachments.values())
    assert srt == "1\n00:00:01,000 --> 00:00:03,000\nOne & two.\n"
    assert vtt == "WEBVTT\n\n00:00:01.000 --> 00:00:03.000\nOne &amp; two.\n"


def test_picture_and_sound_stay_as_they_are_and_the_index_is_first(run, tmp_path):
    video, _ = run()
    before = tmp_path / "film.mp4"
    assert video != before
    for kind in ("video", "audio"):
        assert packets(video, kind) == packets(before, kind)
    with av.open(str(video)) as after, av.open(str(before)) as source:
        assert {key: after.metadata[key] for key in ("title", "comment")} == {"title": "film", "comment": "artificial"}
        assert after.duration == pytest.approx(source.duration, abs=av.time_base / 25)
        assert len(after.streams) == 3
        assert after.streams.subtitles[0].codec_context.name == "mov_text"
    data = video.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def packets(path: Path, kind: str) -> list[tuple[object, ...]]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts, p.dts, p.duration, bytes(p)) for p in container.demux(stream) if p.size]


def test_cues_that_follow_at_once_have_no_gap_between_them(run):
    timing = [
        TimedText(f"Now this is sentence {'ABCDE'[number] * 3}.", number * 1.5, number * 1.5 + 1.5)
        for number in range(5)
    ]
    video, _ = run(" ".join(piece.text for piece in timing), timing=timing)
    samples = [(pts, duration, bool(data[2:])) for pts, _, duration, data in packets(video, "subtitles")]
    assert [full for _, _, full in samples].count(True) == 5
    assert all(pts + duration == following for (pts, duration, _), (following, *_) in pairwise(samples))
    assert all(duration > 0 for _, duration, _ in samples)


def test_tracks_that_are_there_already_stay(run, tmp_path):
    video, _ = run(language="de")
    both = tmp_path / "both.mp4"
    add_text_track(video, [Cue(1.0, 2.0, ("Hello",))], both, language="eng")
    with av.open(str(both)) as container:
        tracks = container.streams.subtitles
        assert [track.language for track in tracks] == ["deu", "eng"]
        assert [bool(track.disposition & Disposition.default) for track in tracks] == [True, False]
    assert packets(both, "subtitles") == packets(video, "subtitles")


MARKUP = r"Say <i>this</i>, <b >now</b> & 1 < 2 --> {\an8}{y:b} C:\New <v Bob> &lt; </x>."


def test_markup_in_the_text_is_text(run):
    video, ctx = run(MARKUP, timing=[TimedText(MARKUP, 0, 6)], characters_per_line=100)
    assert [text for *_, text in cues_of(video)] == [MARKUP]
    shown = decoded(ctx.attachments[".srt"])
    assert [text.replace("\u2060", "").replace("\\{", "{").replace("\\}", "}") for text in shown] == [MARKUP]
    vtt = ctx.attachments[".vtt"].read_text().splitlines()[3]
    assert "<" not in vtt and ">" not in vtt
    assert vtt.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == MARKUP


def test_a_text_that_looks_like_a_cue_is_none(run):
    text = "1\n00:00:01,000 --> 00:00:02,000\nforged"
    _, ctx = run(text, timing=[TimedText(text, 0, 6)])
    for path in ctx.attachments.values():
        words = " ".join(text for *_, text in cues_of(path)).replace("\u2060", "").replace("&gt;", ">").split()
        assert words == text.split()


def test_sentences_of_espeak_are_shown_while_they_are_spoken(run, spoken):
    text = "This is the first sentence. Here comes the second one, after it. And that was all for today."
    timing, wav = spoken(text)
    _, ctx = run(text, timing=timing, wav=wav)
    cues = cues_of(ctx.attachments[".srt"])
    ends = [piece.end for piece in timing if piece.text.endswith(".")]
    starts = [0.0, *(following.start for piece, following in pairwise(timing) if piece.text.endswith("."))]
    assert [text for *_, text in cues] == [
        "This is the first sentence.",
        "Here comes the second one, after it.",
        "And that was all for today.",
    ]
    assert [start for start, _, _ in cues] == pytest.approx(starts, abs=1 / 25)
    assert [end for _, end, _ in cues] == pytest.approx(ends, abs=1 / 25)


def test_a_voice_that_does_not_say_when_it_speaks(run, spoken):
    """The pauses that are heard tell where sentences end."""
    text = "This is the first sentence. Here comes the second one. And that was all for today."
    timing, wav = spoken(text)
    _, ctx = run(text, timing=(), wav=wav)
    starts = [piece.start for piece in timing if piece.text in {"Here", "And"}]
    assert [start for start, _, _ in cues_of(ctx.attachments[".srt"])][1:] == pytest.approx(starts, abs=0.1)


@pytest.mark.parametrize(("padding", "shift"), [((1.5, 0.0), 1.5), ((0.0, 2.0), 0.0), ((-0.5, 0.0), -0.5)])
def test_what_the_audio_stage_adds_or_cuts_away(run, spoken, tmp_path, padding, shift):
    text = "This is the first sentence. Here comes the second one. And that was all for today."
    timing, speech = spoken(text)
    with wave.open(str(speech)) as file:
        sound = np.frombuffer(file.readframes(-1), "<i2")
    before, after = (round(seconds * 16000) for seconds in padding)
    changed = np.concatenate([np.zeros(max(0, before), "<i2"), sound[max(0, -before) :], np.zeros(after, "<i2")])
    write(tmp_path / "changed.wav", changed)
    _, ctx = run(text, timing=timing, wav=tmp_path / "changed.wav", speech=speech)
    starts = [max(0.0, piece.start + shift) for piece in timing if piece.text in {"This", "Here", "And"}]
    assert [start for start, _, _ in cues_of(ctx.attachments[".srt"])] == pytest.approx(starts, abs=1 / 25)


def test_an_audio_stage_that_ends_early(run, spoken, tmp_path):
    text = "This is the first sentence. Here comes the second one. And that was all for today."
    timing, speech = spoken(text)
    until = next(piece.start for piece in timing if piece.text == "And")
    with wave.open(str(speech)) as file:
        write(tmp_path / "short.wav", np.frombuffer(file.readframes(round(until * 16000)), "<i2"))
    video, _ = run(text, timing=timing, wav=tmp_path / "short.wav", speech=speech)
    assert [text for *_, text in cues_of(video)] == ["This is the first sentence.", "Here comes the second one."]


def test_an_audio_stage_that_speaks_slower(run, spoken, tmp_path):
    text = "This is the first sentence. Here comes the second one. And that was all for today."
    timing, speech = spoken(text)
    with wave.open(str(speech)) as file:
        write(tmp_path / "slow.wav", np.repeat(np.frombuffer(file.readframes(-1), "<i2"), 2))
    _, ctx = run(text, timing=timing, wav=tmp_path / "slow.wav", speech=speech)
    starts = [piece.start * 2 for piece in timing if piece.text in {"This", "Here", "And"}]
    assert [start for start, _, _ in cues_of(ctx.attachments[".srt"])] == pytest.approx(starts, abs=1 / 25)


def write(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.mark.parametrize(
    ("language", "voice", "tag"),
    [
        (None, "de", "deu"),
        (None, "en-us+f3", "eng"),
        ("pt-BR", "nova", "por"),
        (None, "marin", "und"),
        (None, None, "und"),
    ],
)
def test_the_tracks_language(run, language, voice, tag):
    video, _ = run(voice=voice, language=language)
    with av.open(str(video)) as container:
        assert container.streams.subtitles[0].language == tag


def test_codes_of_languages():
    assert [three_letters(tag) for tag in ("de", "deu", "zh-Hans", "cmn", "DE-at")] == [
        "deu",
        "deu",
        "zho",
        "zho",
        "deu",
    ]
    assert [three_letters(tag) for tag in ("", "nova", "ash", "xx", "af_heart", "german")] == [None] * 6


def test_formats(run, tmp_path):
    video, ctx = run(formats=["vtt"])
    assert list(ctx.attachments) == [".vtt"]
    assert video == tmp_path / "film.mp4"
    video, ctx = run(formats=["track"])
    assert not ctx.attachments
    assert cues_of(video)


def test_a_job_without_a_text_gets_none(subtitles, make_context, make_job, tmp_path):
    ctx = make_context(subtitles)
    ctx.log = Log()
    assert subtitles.post(make_job(None, audio_file=tmp_path / "voice.wav"), tmp_path / "film.mp4", ctx) is None
    assert not ctx.attachments and not ctx.report
    assert ctx.log.lines == ["no subtitles: the job brings its own speech, and no text says what is spoken in it"]


def test_a_text_of_which_nothing_is_heard_gets_none(run, tmp_path):
    video, ctx = run(timing=[TimedText(TEXT, 9.0, 12.0)])
    assert (video, ctx.attachments, ctx.report) == (tmp_path / "film.mp4", {}, {"cues": 0})


class Log:
    """Keeps what is logged."""

    def __init__(self):
        self.lines = []

    def info(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    "options",
    [{"formats": []}, {"formats": ["ass"]}, {"lines": 4}, {"characters_per_line": 9}, {"language": "klingon"}],
)
def test_wrong_options_are_refused(subtitles, options):
    with pytest.raises(ValidationError):
        subtitles.Options(**options)


def test_an_unreadable_video_leaves_nothing_behind(run, subtitles, make_context, make_job, make_wav, tmp_path):
    wav = make_wav(16000)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    ctx = replace(make_context(subtitles), wav=wav, speech=wav)
    with pytest.raises(Exception, match=r"broken\.mp4 is no sound or video file that can be read"):
        subtitles.post(make_job("Hello."), tmp_path / "broken.mp4", ctx)
    assert not (ctx.workdir / "video.mp4").exists()
