"""What a newcomer sees: a text goes in, a video, a poster and a report come out."""

from __future__ import annotations

import hashlib
import json
import wave
from pathlib import Path

import av
from system.instance import PATIENCE_SECONDS, Instance, NewInstance

HELLO = "Hello from atenea. This is a test."


def boxes(path: Path) -> list[bytes]:
    """The types of an MP4 file's top-level boxes, in order."""
    data, position, types = path.read_bytes(), 0, []
    while position < len(data):
        size = int.from_bytes(data[position : position + 4])
        types.append(data[position + 4 : position + 8])
        position += size
    return types


def keep_wav(instance: Instance) -> None:
    """An audio plugin that leaves a copy of its WAV where the test finds it."""
    instance.plugin(
        "keeping",
        "import shutil\nfrom atenea.media.audio import write_wav\n"
        "@hookimpl\ndef audio(job, speech, ctx):\n"
        "    wav = ctx.workdir / 'speech.wav'\n    write_wav(speech, wav, max_seconds=60)\n"
        f"    shutil.copy(wav, {str(instance.folder / 'kept.wav')!r})\n    return wav\n",
    )


def test_a_text_becomes_a_playable_video_with_poster_and_report(new_instance: NewInstance) -> None:
    instance = new_instance("[audio]\nplugin = 'keeping'\n[post]\nplugins = ['poster']\n")
    keep_wav(instance)
    instance.start()
    instance.drop("hello.txt", HELLO)
    video = instance.output("hello.mp4")
    assert instance.outputs() == ["hello.jpg", "hello.json", "hello.mp4"]
    assert list(instance.inbox.iterdir()) == []

    with wave.open(str(instance.folder / "kept.wav")) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16000, 1, 2)
        samples = wav.getnframes()
    frames = -(-samples * 25 // 16000)
    kinds = boxes(video)
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    with av.open(str(video)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, picture.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (picture.width, picture.height, picture.average_rate) == (512, 512, 25)
        assert sound.codec_context.name == "aac"
        assert abs(float(sound.duration * sound.time_base) - frames / 25) <= 1 / 25
        assert sum(1 for _ in container.decode(picture)) == frames

    report = json.loads((instance.outbox / "hello.json").read_text())
    assert report["name"] == "hello"
    assert report["generated_by_ai"] is True
    assert report["inputs"] == {"text": hashlib.sha256(HELLO.encode()).hexdigest()}
    assert report["video"]["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert [(stage["stage"], stage["plugin"]) for stage in report["stages"]] == [
        ("tts", "espeak"),
        ("audio", "keeping"),
        ("render", "preview"),
        ("post", "poster"),
    ]
    assert report["stages"][0]["options"] == {"voice": "en", "rate": 170, "pitch": 50}
    assert all(stage["seconds"] > 0 for stage in report["stages"])


def test_run_once_makes_everything_and_prints_the_paths(new_instance: NewInstance) -> None:
    instance = new_instance()
    instance.drop("one.txt", "One.")
    instance.drop("two.txt", "Two.")
    done = instance.atenea("run", "--once")
    assert sorted(done.stdout.split()) == [str(instance.outbox / "one.mp4"), str(instance.outbox / "two.mp4")]
    assert instance.outputs() == ["one.json", "one.mp4", "two.json", "two.mp4"]
    assert instance.ask("jobs")["daemon"] is False


def test_run_once_fails_when_a_job_fails_and_answers_it(new_instance: NewInstance) -> None:
    instance = new_instance()
    instance.drop("blank.txt", "  \n")
    instance.atenea("run", "--once", code=1)
    answer = (instance.outbox / "blank.error.txt").read_text()
    assert answer.startswith("blank.txt: has no text in it; write what is to be spoken\n")
    assert "Traceback" not in answer
    assert instance.outputs() == ["blank.error.txt"]


def test_the_same_name_again_never_replaces_a_video(new_instance: NewInstance) -> None:
    instance = new_instance().start()
    instance.drop("hello.txt", "First.")
    first = instance.output("hello.mp4").read_bytes()
    instance.drop("hello.txt", "Second, which is longer.")
    second = instance.output("hello-2.mp4").read_bytes()
    instance.output("hello-2.json")
    assert instance.outputs() == ["hello-2.json", "hello-2.mp4", "hello.json", "hello.mp4"]
    assert (instance.outbox / "hello.mp4").read_bytes() == first != second


def test_an_instance_without_any_configuration_works(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "atenea.toml").unlink()
    instance.drop("hello.txt", "Hello.")
    import subprocess

    done = subprocess.run(
        instance.command("run", "--once"), cwd=instance.folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert (done.returncode, done.stdout) == (0, f"{instance.outbox / 'hello.mp4'}\n"), done.stderr
    assert instance.outputs() == ["hello.json", "hello.mp4"]
    made = {path.name for path in instance.folder.iterdir() if path.is_dir()}
    assert made == {"inbox", "outbox", "plugins", "state", "cache", "assets"}


def test_a_plugin_of_a_few_lines_changes_the_result(new_instance: NewInstance) -> None:
    instance = new_instance("[post]\nplugins = ['note']\n[post.note]\nwords = 'by hand'\n")
    instance.plugin(
        "note",
        "class Options(PluginOptions):\n    words: str = ''\n\n"
        "@hookimpl\ndef post(job, video, ctx):\n"
        "    note = ctx.workdir / 'note'\n    note.write_text(f'{job.name} {ctx.options.words}')\n"
        "    ctx.attach(note, '.note.txt')\n    ctx.report['frames'] = 3\n",
    )
    instance.drop("hello.txt", "Hello.")
    instance.atenea("run", "--once")
    assert (instance.outbox / "hello.note.txt").read_text() == "hello by hand"
    stages = json.loads((instance.outbox / "hello.json").read_text())["stages"]
    assert stages[-1]["report"] == {"frames": 3}
