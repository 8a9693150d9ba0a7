"""Videos made piece by piece: joined to the frame, gone on with after a crash, and dropped when something changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import tracemalloc

import av
import numpy as np
import pytest

from atenea import PermanentError
from atenea.media.audio import write_wav
from atenea.media.mux import VideoWriter, add_speech, check_video
from atenea.media.segments import SegmentEncoder, SegmentStore, join_segments

SIZE = 64


def pictures(number, frames=16, size=SIZE):
    """Some that move, so that the encoder has reasons for every kind of frame."""
    noise = np.random.default_rng(number).integers(0, 90, (size, size, 3))
    return np.stack([np.roll(noise, 3 * index, axis=1) + 5 * index for index in range(frames)]).astype(np.uint8)


def store(folder, fps=25, **facts):
    return SegmentStore(folder, {"seed": 42, **facts}, fps)


def filled(folder, segments=3, last=16, fps=25):
    made = store(folder, fps)
    for number in range(segments):
        made.add(pictures(number, last if number == segments - 1 else 16), b"state %d" % number)
    return made


def frames_of(paths):
    frames = []
    for path in paths:
        with av.open(str(path)) as container:
            frames += [hashlib.sha256(frame.to_ndarray()).digest() for frame in container.decode(video=0)]
    return frames


def times(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        unit = 1 / (stream.time_base * stream.average_rate)
        return [(packet.pts / unit, packet.dts / unit) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("fps", [1, 7, 25, 60])
@pytest.mark.parametrize("last", [1, 2, 5, 16])
@pytest.mark.parametrize("segments", [1, 4])
def test_joined_are_the_same_frames_at_exact_times(tmp_path, segments, last, fps):
    made = filled(tmp_path / "clips", segments, last, fps)
    target = tmp_path / "joined.mp4"
    join_segments(made.paths, target)
    frames = 16 * (segments - 1) + last
    check_video(target, frames * 16_000 // fps)
    assert frames_of([target]) == frames_of(made.paths)
    shown, decoded = zip(*times(target), strict=True)
    assert sorted(shown) == list(range(frames))
    assert list(decoded) == [decoded[0] + index for index in range(frames)]
    assert all(dts <= pts for pts, dts in zip(shown, decoded, strict=True))


def test_joined_video_takes_the_speech(make, tmp_path):
    speech = make.tone("s.wav", 2.51, 44_100)
    samples = write_wav(speech, tmp_path / "w.wav")
    made = filled(tmp_path / "clips", 4, 15)
    join_segments(made.paths, tmp_path / "joined.mp4")
    add_speech(tmp_path / "joined.mp4", speech, samples, tmp_path / "out.mp4")
    assert frames_of([tmp_path / "out.mp4"]) == frames_of(made.paths)


def test_one_keyframe_for_each_segment(tmp_path):
    join_segments(filled(tmp_path / "clips", 4).paths, tmp_path / "joined.mp4")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [index for index, is_key in enumerate(keys) if is_key] == [0, 16, 32, 48]


def test_an_hour_in_constant_memory(tmp_path):
    paths = filled(tmp_path / "clips", 2).paths
    tracemalloc.start()
    join_segments(paths * 50, tmp_path / "warm.mp4")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    join_segments(paths * 1000, tmp_path / "long.mp4")
    grown = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    check_video(tmp_path / "long.mp4", 32_000 * 16_000 // 25)
    assert grown < 1_000_000


def test_progress_and_what_is_left_when_it_ends_early(tmp_path):
    paths = filled(tmp_path / "clips").paths
    told = []
    join_segments(paths, tmp_path / "joined.mp4", progress=told.append)
    assert told == [0, 1 / 3, 2 / 3, 1]

    def stop(fraction):
        if fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_segments(paths, tmp_path / "joined.mp4", progress=stop)
    assert not (tmp_path / "joined.mp4").exists()


def test_a_segment_of_other_settings_is_refused(tmp_path):
    paths = filled(tmp_path / "clips").paths
    with VideoWriter(tmp_path / "other.mp4", SIZE, SIZE, 25, preset="ultrafast") as writer:
        writer.write(pictures(0)[0])
    with pytest.raises(PermanentError, match=r"^other\.mp4 was encoded with other settings"):
        join_segments([*paths, tmp_path / "other.mp4"], tmp_path / "joined.mp4")
    assert not (tmp_path / "joined.mp4").exists()


def test_what_is_finished_is_found_again(tmp_path):
    folder = tmp_path / "clips"
    assert (store(folder).count, store(folder).state) == (0, None)
    made = filled(folder, 2)
    again = store(folder)
    assert (again.count, again.state, again.paths) == (2, b"state 1", made.paths)
    again.add(pictures(2), b"\n\x00\xff")
    assert (store(folder).count, store(folder).state) == (3, b"\n\x00\xff")


def test_same_segments_with_and_without_a_break(tmp_path):
    whole = filled(tmp_path / "whole", 3)
    filled(tmp_path / "broken", 2)
    broken = store(tmp_path / "broken")
    broken.add(pictures(2), b"state 2")
    assert [path.read_bytes() for path in whole.paths] == [path.read_bytes() for path in broken.paths]


ENCODE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from atenea.media.mux import VideoWriter
folder = Path(sys.argv[1])
for size in (64, 128, 192, 320, 512):
    ramp = np.add.outer(np.arange(size), np.arange(size)) // 2
    noise = np.random.default_rng(0).integers(0, 90, (size, size, 3))
    with VideoWriter(folder / "v.mp4", size, size, 25, preset="medium") as writer:
        for index in range(8):
            writer.write((np.roll(noise, 3 * index, axis=1) + np.roll(ramp, index)[..., None] % 150).astype(np.uint8))
    print(size, hashlib.sha256((folder / "v.mp4").read_bytes()).hexdigest())
"""


def test_bytes_do_not_depend_on_what_was_in_memory_before(tmp_path):
    # glibc fills the memory that it hands out with this byte's complement.
    filled_with = [
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(tmp_path)],
            env={**os.environ, "MALLOC_PERTURB_": byte},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for byte in ("0", "1", "170")
    ]
    assert filled_with[0].count("\n") == 5
    assert filled_with[1:] == filled_with[:1] * 2


def test_a_segment_without_its_state_is_made_anew(tmp_path):
    folder = tmp_path / "clips"
    made = filled(folder, 2)
    whole = made.paths[1].read_bytes()
    (folder / "000002.mp4").write_bytes(whole[:100])
    (folder / ".1234.tmp").write_bytes(b"half a state")
    again = store(folder)
    assert again.count == 2
    assert sorted(path.name for path in folder.iterdir()) == ["000000.mp4", "000001.mp4", "state"]


DAMAGE = {
    "other facts": lambda folder: store(folder, width=128),
    "no state": lambda folder: (folder / "state").unlink(),
    "half a state": lambda folder: (folder / "state").write_bytes((folder / "state").read_bytes()[:-1]),
    "no header": lambda folder: (folder / "state").write_bytes(b"\xff\n"),
    "a segment that is gone": lambda folder: (folder / "000000.mp4").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_everything_starts_over(tmp_path, damage):
    folder = tmp_path / "clips"
    filled(folder, 2)
    DAMAGE[damage](folder)
    again = store(folder)
    assert (again.count, again.state, again.paths, list(folder.iterdir())) == (0, None, [], [])


def test_the_encoder_works_beside_and_finishes_what_waits(tmp_path):
    made = store(tmp_path / "clips")
    with pytest.raises(KeyboardInterrupt), SegmentEncoder(made) as encoder:
        for number in range(3):
            encoder.put(lambda number=number: (pictures(number), b"%d" % number))
        raise KeyboardInterrupt
    assert (made.count, made.state) == (3, b"2")
    whole = filled(tmp_path / "whole", 3)
    assert [path.read_bytes() for path in made.paths] == [path.read_bytes() for path in whole.paths]


def test_the_encoder_waits_when_it_is_behind(tmp_path):
    class Slow:
        def __init__(self):
            self.begun = threading.Event()
            self.go_on = threading.Event()
            self.added = []

        def add(self, _pictures, state):
            self.begun.set()
            assert self.go_on.wait(60)
            self.added.append(state)

    slow = Slow()
    with SegmentEncoder(slow) as encoder:
        encoder.put(lambda: (None, b"0"))
        assert slow.begun.wait(60)
        encoder.put(lambda: (None, b"1"))
        third = threading.Thread(target=encoder.put, args=(lambda: (None, b"2"),))
        third.start()
        assert slow.added == []
        assert third.is_alive()
        slow.go_on.set()
        third.join(60)
    assert slow.added == [b"0", b"1", b"2"]


def test_what_fails_in_the_thread_is_raised_outside(tmp_path):
    made = store(tmp_path / "clips")
    (tmp_path / "clips").rmdir()
    with pytest.raises(FileNotFoundError), SegmentEncoder(made) as encoder:
        for number in range(20):
            encoder.put(lambda number=number: (pictures(number), b"state"))
    with pytest.raises(FileNotFoundError), SegmentEncoder(made) as encoder:
        encoder.put(lambda: (pictures(0), b"state"))
