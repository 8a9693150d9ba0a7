"""Speech beside a picture: nothing re-encoded, nothing drifting, and videos that must be refused."""

import hashlib
from fractions import Fraction

import av
import numpy as np
import pytest

from atenea import PermanentError
from atenea.media.audio import frame_count, write_wav
from atenea.media.mux import VideoWriter, add_speech, yuv420p


def rendered(path, samples, fps=25, size=64, extra=0):
    with VideoWriter(path, size, size, fps) as writer:
        for index in range(frame_count(samples, fps) + extra):
            writer.write(np.full((size, size, 3), (index * 7) % 250, np.uint8))
    return path


def lengths(path):
    with av.open(str(path)) as container:
        return [
            stream.duration * stream.time_base for stream in (container.streams.video[0], container.streams.audio[0])
        ]


def packets(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [hashlib.sha256(bytes(packet)).digest() for packet in container.demux(stream) if packet.size]


LENGTHS = [
    # seconds, rate, channels, frames per second
    (0.01, 16000, 1, 25),
    (1, 16000, 1, 25),
    (3.337, 22050, 1, 25),
    (10.00007, 22050, 2, 30),
    (1.3, 96000, 1, 25),
    (7, 44100, 2, Fraction(30000, 1001)),
    (5.5, 16000, 1, 1),
    (2, 12345, 8, 25),
]


@pytest.mark.parametrize("case", LENGTHS, ids=str)
def test_sound_and_picture_end_together(make, tmp_path, case):
    seconds, rate, channels, fps = case
    speech = make.tone("s.wav", seconds, rate, channels)
    samples = write_wav(speech, tmp_path / "w.wav")
    video = rendered(tmp_path / "v.mp4", samples, fps)
    target = tmp_path / "out.mp4"
    add_speech(video, speech, samples, target)
    picture, sound = lengths(target)
    assert picture == frame_count(samples, fps) / Fraction(fps)
    assert abs(picture - sound) < Fraction(1, 1000)
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert packets(target, "video") == packets(video, "video")
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == fps
        assert container.streams.audio[0].start_time == 0
        assert container.streams.audio[0].codec_context.name == "aac"
        assert container.streams.audio[0].channels == min(2, channels)


def test_speech_starts_at_zero_and_does_not_drift(make, tmp_path):
    clicks = np.zeros(22050 * 60)
    clicks[:: 22050 * 5] = 1
    clicks = np.convolve(clicks, 12000 * np.hanning(400), "full")[: len(clicks)]
    speech = make.wav("clicks.wav", clicks, 22050)
    samples = write_wav(speech, tmp_path / "w.wav")
    add_speech(rendered(tmp_path / "v.mp4", samples), speech, samples, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    for second in range(0, 60, 5):
        start = second * 22050
        window = heard[max(0, start - 200) : start + 800]
        assert abs(max(0, start - 200) + np.abs(window).argmax() - start - 200) < 20


def test_shorter_speech_is_filled_up_and_longer_cut(make, tmp_path):
    video = rendered(tmp_path / "v.mp4", 32000)
    for seconds in (0.5, 9):
        add_speech(video, make.tone("s.wav", seconds), 32000, tmp_path / "out.mp4")
        assert lengths(tmp_path / "out.mp4") == [2, 2]


def test_own_sound_is_kept(make, tmp_path):
    speech = make.tone("s.wav", 2)
    add_speech(rendered(tmp_path / "v.mp4", 32000), speech, 32000, tmp_path / "one.mp4")
    add_speech(tmp_path / "one.mp4", make.tone("other.wav", 2, 44100, 2), 32000, tmp_path / "two.mp4")
    assert packets(tmp_path / "two.mp4", "audio") == packets(tmp_path / "one.mp4", "audio")
    assert lengths(tmp_path / "two.mp4") == [2, 2]


def with_flac(source, target):
    """The picture of `source`, and two seconds of other sound."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        picture = output.add_stream_from_template(container.streams.video[0])
        sound = output.add_stream("flac", rate=48000, layout="stereo")
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = picture
                output.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.full((1, 2 * 96000), 9000, np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return target


def test_other_containers_and_other_sound(make, tmp_path):
    speech = make.tone("s.wav", 2)
    add_speech(make.video("v.mkv", 50), speech, 32000, tmp_path / "one.mp4")
    assert lengths(tmp_path / "one.mp4") == [2, 2]
    assert len(packets(tmp_path / "one.mp4", "video")) == 50
    other = with_flac(tmp_path / "one.mp4", tmp_path / "flac.mkv")
    add_speech(other, speech, 32000, tmp_path / "two.mp4")
    assert lengths(tmp_path / "two.mp4") == [2, 2]
    with av.open(str(tmp_path / "two.mp4")) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", 48000, 2)


def test_metadata(make, tmp_path):
    add_speech(
        rendered(tmp_path / "v.mp4", 16000), make.tone("s.wav", 1), 16000, tmp_path / "out.mp4",
        metadata={"title": "Añá 日本", "comment": "made with atenea"},
    )  # fmt: skip
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "Añá 日本"
        assert container.metadata["comment"] == "made with atenea"


@pytest.mark.parametrize("extra", [-1, 1])
def test_wrong_number_of_frames(make, tmp_path, extra):
    video = rendered(tmp_path / "v.mp4", 16001, extra=extra)
    with pytest.raises(PermanentError, match=rf"v\.mp4 has {26 + extra} frames, and must have 26"):
        add_speech(video, make.tone("s.wav", 1), 16001, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("codec", "pix_fmt"), [("mpeg4", "yuv420p"), ("libx264", "yuv444p")])
def test_wrong_kind_of_video(make, tmp_path, codec, pix_fmt):
    video = make.video("v.mp4", 25, codec=codec, pix_fmt=pix_fmt)
    with pytest.raises(PermanentError, match=r"v\.mp4 is .* must be h264 in yuv420p"):
        add_speech(video, make.tone("s.wav", 1), 16000, tmp_path / "out.mp4")


def test_sound_in_place_of_video(make, tmp_path):
    speech = make.tone("s.wav", 1)
    with pytest.raises(PermanentError, match="no picture"):
        add_speech(speech, speech, 16000, tmp_path / "out.mp4")


def test_same_frames_same_bytes(tmp_path):
    one, two = (rendered(tmp_path / name, 48000).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two


def test_keyframes_every_two_seconds(tmp_path):
    path = rendered(tmp_path / "v.mp4", 16000 * 5)
    with av.open(str(path)) as container:
        keys = [round(packet.pts * packet.time_base * 25) for packet in container.demux(video=0) if packet.is_keyframe]
    assert keys == [0, 50, 100]


def test_colours_are_bt709(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    planes = yuv420p(red)
    assert abs(int(planes[0, 0]) - 63) <= 1
    assert abs(int(planes[-1, -1]) - 240) <= 1
    with VideoWriter(tmp_path / "a.mp4", 64, 64, 25, crf=4) as writer:
        writer.write(red)
        writer.write_yuv(planes)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (
            1,
            1,
            1,
            1,
        )
        for frame in container.decode(video=0):
            assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - red).max() < 6


def test_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="shape"), VideoWriter(tmp_path / "a.mp4", 64, 64, 25) as writer:
        writer.write(np.zeros((32, 64, 3), np.uint8))
    assert not (tmp_path / "a.mp4").exists()
