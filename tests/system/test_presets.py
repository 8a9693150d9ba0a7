"""Presets in a running daemon: drop into a folder, and the job takes that folder's settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import av
from PIL import Image
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until
from system.test_reload import reload

STUB = "[render]\nplugin = 'stub'\n"

PRESETS = """
[presets.news]
avatar = "ana.png"
priority = 7
tts.voice = "en-gb"
post.plugins = ["poster"]
post.poster.quality = 42

[presets.noticias]
avatar = "ben.png"
tts = { voice = "es", rate = 200 }
post.plugins = ["subtitles"]
post.subtitles.formats = ["srt", "track"]
"""

COMPLAINT = "a preset's file cannot be used; jobs that need it will fail"


def picture(path: Path, colour: str) -> str:
    """A picture in one colour; its hash."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def report(instance: Instance, name: str) -> dict[str, Any]:
    instance.output(f"{name}.mp4")
    found: dict[str, Any] = json.loads((instance.outbox / f"{name}.json").read_text())
    return found


def options(shown: dict[str, Any], plugin: str) -> dict[str, Any]:
    [stage] = [stage for stage in shown["stages"] if stage["plugin"] == plugin]
    return dict(stage["options"])


def test_the_same_name_in_two_presets_with_their_avatars_voices_and_post_plugins(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + PRESETS)
    instance.plugin("stub", RENDER_STUB)
    red = picture(instance.folder / "assets/ana.png", "red")
    blue = picture(instance.folder / "assets/ben.png", "blue")
    instance.start()
    # The daemon has made the folders: nothing else is needed before something can be dropped.
    instance.drop("news/hello.txt", "Good evening.")
    instance.drop("noticias/hello.txt", "Buenas noches.")
    shown = {job["preset"]: (name, job) for name in ("hello", "hello-2") if (job := report(instance, name))}

    name, news = shown["news"]
    assert (news["priority"], news["inputs"]["avatar"]) == (7, red)
    assert news["inputs"]["text"] == hashlib.sha256(b"Good evening.").hexdigest()
    assert options(news, "espeak") == {"voice": "en-gb", "rate": 170, "pitch": 50}
    assert options(news, "poster")["quality"] == 42
    assert [path for path in instance.outputs() if path.rpartition(".")[0] == name] == [
        f"{name}{suffix}" for suffix in (".jpg", ".json", ".mp4")
    ]

    name, noticias = shown["noticias"]
    assert (noticias["priority"], noticias["inputs"]["avatar"]) == (0, blue)
    assert options(noticias, "espeak") == {"voice": "es", "rate": 200, "pitch": 50}
    assert options(noticias, "subtitles")["formats"] == ["srt", "track"]
    assert [path for path in instance.outputs() if path.rpartition(".")[0] == name] == [
        f"{name}{suffix}" for suffix in (".json", ".mp4", ".srt")
    ]
    assert (instance.outbox / f"{name}.srt").read_text().splitlines()[2] == "Buenas noches."
    with av.open(str(instance.outbox / f"{name}.mp4")) as video:
        assert [stream.type for stream in video.streams] == ["video", "audio", "subtitle"]
        assert video.streams.subtitles[0].language == "spa"
    assert sorted(path.name for path in instance.inbox.rglob("*")) == ["news", "noticias"]


def test_a_new_presets_folder_is_made_when_the_configuration_is_reloaded(new_instance: NewInstance) -> None:
    instance = new_instance(STUB)
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    assert list(instance.inbox.iterdir()) == []
    reload(instance, STUB + "[presets.sport]\ntts.pitch = 90\n")
    wait_until((instance.inbox / "sport").is_dir, "the preset's folder")
    instance.drop("sport/goal.txt", "Goal!")
    assert options(report(instance, "goal"), "espeak")["pitch"] == 90


def test_a_missing_avatar_is_told_before_the_first_job(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[presets.news]\navatar = 'ana.png'\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    sentence = f"presets.news.avatar: 'ana.png' is not in the assets folder; put it into {instance.folder}/assets"
    [warning] = wait_until(lambda: instance.events(COMPLAINT), "the warning")
    assert (warning["level"], warning["error"]) == ("warning", sentence)

    reload(instance, STUB + "[presets.news]\navatar = 'ana.jpg'\n")
    assert [event["error"] for event in instance.events(COMPLAINT)] == [sentence, sentence.replace("png", "jpg")]

    text = instance.folder / "hello.txt"
    text.write_text("Hello.")
    done = instance.atenea("check", str(text))
    assert (done.stdout, done.stderr) == (f"{text}: ok\n", f"atenea: {sentence.replace('png', 'jpg')}\n")

    picture(instance.folder / "assets/ana.jpg", "red")
    reload(instance, STUB + "[presets.news]\navatar = 'ana.jpg'\n")
    assert len(instance.events(COMPLAINT)) == 2
