"""Decoding to 16 kHz mono: exact counts, and a sentence for every broken file."""

import struct
import wave
from fractions import Fraction

import numpy as np
import pytest

from atenea import PermanentError
from atenea.errors import Cancelled
from atenea.media.audio import frame_count, wav_info, write_wav


def tone(samples, rate, channels):
    return np.repeat(0.5 * np.sin(np.arange(samples) / rate * 2764)[:, None], channels, axis=1).astype(np.float32)


EXACT = [
    ("a.wav", "pcm_s16le", 16000, "mono", "s16"),
    ("b.wav", "pcm_s24le", 44100, "stereo", "s32"),
    ("c.wav", "pcm_f32le", 96000, "7.1", "flt"),
    ("d.wav", "pcm_s16le", 8000, "5.1", "s16"),
    ("e.flac", "flac", 48000, "stereo", "s16"),
    ("f.ogg", "libopus", 48000, "mono", "s16"),
    ("g.mp3", "libmp3lame", 44100, "stereo", "s16p"),
    ("h.flac", "flac", 22050, "mono", "s16"),
]


@pytest.mark.parametrize("samples", [1000, 22051, 70001])
@pytest.mark.parametrize("form", EXACT, ids=lambda form: form[0])
def test_count_is_exact(make, tmp_path, form, samples):
    name, codec, rate, layout, sample_format = form
    channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    source = make.sound(name, (codec, rate, layout, sample_format), tone(samples, rate, channels))
    written = write_wav(source, tmp_path / "out.wav")
    assert written == -(-samples * 16000 // rate)
    assert wav_info(tmp_path / "out.wav") == written


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 192000])
def test_one_sample_is_enough(make, tmp_path, rate):
    source = make.wav("one.wav", np.array([1000]), rate)
    assert write_wav(source, tmp_path / "out.wav") == -(-16000 // rate)


def test_right_format_keeps_every_sample(make, tmp_path, samples_of):
    noise = np.random.default_rng(1).integers(-32768, 32768, 100_003)
    noise[:2] = -32768, 32767
    write_wav(make.wav("noise.wav", noise), tmp_path / "out.wav")
    assert np.array_equal(samples_of(tmp_path / "out.wav"), noise)


@pytest.mark.parametrize("channels", [2, 3, 6, 8, 12])
def test_channels_that_are_alike_keep_their_level(make, tmp_path, samples_of, channels):
    source = make.wav("flat.wav", np.full((48000, channels), 20000), 48000)
    write_wav(source, tmp_path / "out.wav")
    assert abs(samples_of(tmp_path / "out.wav")[8000] - 20000) <= 2


def test_stereo_becomes_the_mean(make, tmp_path, samples_of):
    source = make.wav("stereo.wav", np.tile([8000, -2000], (16000, 1)))
    write_wav(source, tmp_path / "out.wav")
    assert abs(samples_of(tmp_path / "out.wav")[8000] - 3000) <= 1


def test_resampled_tone_stays_in_time(make, tmp_path, samples_of):
    write_wav(make.tone("tone.wav", 2, 44100), tmp_path / "out.wav")
    expected = 0.5 * 32767 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert np.abs(samples_of(tmp_path / "out.wav") - expected)[200:-200].max() < 60


def test_m4a_priming_is_skipped(make, tmp_path, samples_of):
    source = make.sound("a.m4a", ("aac", 16000, "mono", "fltp"), tone(16000, 16000, 1))
    write_wav(source, tmp_path / "out.wav")
    decoded = samples_of(tmp_path / "out.wav")[2000:14000] / 32768
    expected = tone(16000, 16000, 1)[2000:14000, 0]
    assert np.corrcoef(decoded, expected)[0, 1] > 0.99


def broken_nan(make):
    samples = tone(16000, 16000, 1)
    samples[5000] = np.nan
    return make.sound("nan.wav", ("pcm_f32le", 16000, "mono", "flt"), samples)


def broken_nan_in_8_channels(make):
    samples = tone(48000, 48000, 8)
    samples[5000, 1] = np.inf
    return make.sound("inf.wav", ("pcm_f32le", 48000, "7.1", "flt"), samples)


def broken_text(make):
    path = make.folder / "text.wav"
    path.write_text("Hello, I am no sound at all.\n" * 100)
    return path


def broken_playlist(make):
    other = make.tone("other.wav", 1)
    path = make.folder / "list.wav"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")
    return path


def broken_empty(make):
    path = make.folder / "empty.wav"
    path.touch()
    return path


def broken_no_samples(make):
    return make.wav("none.wav", np.zeros(0))


def broken_cut_wav(make):
    path = make.tone("cut.wav", 3, 44100)
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def broken_cut_flac(make):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 1)).astype(np.float32)
    path = make.sound("cut.flac", ("flac", 16000, "mono", "s16"), noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def broken_cut_m4a(make):
    path = make.sound("cut.m4a", ("aac", 16000, "mono", "fltp"), tone(32000, 16000, 1))
    path.write_bytes(path.read_bytes()[:5000])
    return path


def broken_mp3(make):
    path = make.sound("bad.mp3", ("libmp3lame", 44100, "mono", "s16p"), tone(100_000, 44100, 1))
    data = bytearray(path.read_bytes())
    data[2000:] = np.random.default_rng(0).bytes(len(data) - 2000)
    path.write_bytes(data)
    return path


def broken_silent_video(make):
    return make.video("film.mp4", 5)


def broken_missing(make):
    return make.folder / "missing.wav"


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (broken_nan, "no numbers"),
        (broken_nan_in_8_channels, "no numbers"),
        (broken_text, "no sound"),
        (broken_playlist, "no sound or video"),
        (broken_empty, "no sound"),
        (broken_no_samples, "no sound in it"),
        (broken_cut_wav, "ends too early"),
        (broken_cut_flac, "damaged|ends too early"),
        (broken_cut_m4a, "no sound or video|damaged"),
        (broken_mp3, "damaged"),
        (broken_silent_video, "no sound in it"),
        (broken_missing, "cannot be read"),
    ],
)
def test_broken_file_is_named(make, tmp_path, breaks, says):
    path = breaks(make)
    with pytest.raises(PermanentError, match=says) as caught:
        write_wav(path, tmp_path / "out.wav")
    assert path.name in str(caught.value)
    assert not (tmp_path / "out.wav").exists()


def test_wav_of_unknown_length_is_read_to_its_end(make, tmp_path):
    path = make.tone("piped.wav", 1)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert write_wav(path, tmp_path / "out.wav") == 16000
    data[4:8] = data[40:44] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)
    assert write_wav(path, tmp_path / "out.wav") == 16000


def test_name_like_a_protocol(make, tmp_path, monkeypatch):
    path = make.tone("concat:a.wav", 1)
    monkeypatch.chdir(path.parent)
    assert write_wav(path.relative_to(path.parent), tmp_path / "out.wav") == 16000


def test_longest_duration(make, tmp_path):
    path = make.tone("long.wav", 2)
    assert write_wav(path, tmp_path / "out.wav", max_seconds=2) == 32000
    with pytest.raises(PermanentError, match=r"long\.wav is longer than 1\.9 seconds"):
        write_wav(path, tmp_path / "out.wav", max_seconds=1.9)


def test_progress_grows_to_the_end(make, tmp_path):
    heard = []
    write_wav(make.tone("tone.wav", 5, 44100), tmp_path / "out.wav", progress=heard.append)
    assert heard == sorted(heard)
    assert len(heard) > 5
    assert heard[-1] == 1.0


def test_cancel_leaves_no_file(make, tmp_path):
    def cancel(fraction):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        write_wav(make.tone("tone.wav", 5), tmp_path / "out.wav", progress=cancel)
    assert not (tmp_path / "out.wav").exists()


def test_wav_info_refuses(make, tmp_path):
    assert wav_info(make.tone("good.wav", 1)) == 16000
    with pytest.raises(PermanentError, match=r"44100 Hz, 2 channels and 16 bits"):
        wav_info(make.tone("wrong.wav", 1, 44100, 2))
    with pytest.raises(PermanentError, match="not one sample"):
        wav_info(broken_no_samples(make))
    with pytest.raises(PermanentError, match=r"text\.wav is no WAV"):
        wav_info(broken_text(make))
    with pytest.raises(PermanentError, match=r"missing\.wav is no WAV"):
        wav_info(broken_missing(make))
    cut = make.tone("cut.wav", 1)
    cut.write_bytes(cut.read_bytes()[:20_000])
    with pytest.raises(PermanentError, match="ends too early"):
        wav_info(cut)


@pytest.mark.parametrize(
    ("samples", "fps", "frames"),
    [
        (1, 25, 1),
        (640, 25, 1),
        (641, 25, 2),
        (16001, 25, 26),
        (16000, 1, 1),
        (533, 30, 1),
        (534, 30, 2),
        (16016, Fraction(30000, 1001), 30),
        (16017, Fraction(30000, 1001), 31),
        (4 * 3600 * 16000 + 1, 25, 360_001),
    ],
)
def test_frame_count(samples, fps, frames):
    assert frame_count(samples, fps) == frames


def test_source_is_never_held_whole(make, tmp_path):
    import tracemalloc

    with wave.open(str(make.folder / "long.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48000)
        for _ in range(120):
            file.writeframesraw(bytes(48000 * 4))
    tracemalloc.start()
    write_wav(make.folder / "long.wav", tmp_path / "out.wav")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
