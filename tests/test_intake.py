"""From what was taken to a validated job: layers, named files, and every mistake at once. With real plugins."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from PIL import Image

from atenea import durable
from atenea.config import Config, load_config
from atenea.errors import MistakesError
from atenea.executor import Task
from atenea.inbox.readings import Reading
from atenea.intake import Intake, read_job
from atenea.job import Job, StageSettings
from atenea.job_store import read_job_file
from atenea.jobfile import parse_job_toml
from atenea.naming import shortened
from atenea.plugin_manager import PluginManager

_STILL = """
from atenea import PluginOptions, hookimpl
class Options(PluginOptions):
    fps: int = 25
    seed: int | None = None
needs = {"gpu"}
@hookimpl
def render(job, wav, ctx): ...
"""

_SHY = """
from atenea import hookimpl
@hookimpl
def render(job, wav, ctx): ...
@hookimpl
def check(job, ctx):
    return None if job.avatar else ["needs an avatar: name one"]
"""

_CONFIG = """
[watch]
settle_seconds = {settle}
[limits]
job_file_bytes = 2000
text_characters = 100
file_bytes = 5000
picture_pixels = 10000
[render]
plugin = "still"
[post.provenance]
enabled = {marked}
"""


class Bench:
    """An instance under the test's folder, and one taken job."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "state/jobs/1"
        self.settle: float = 0
        self.marked = False
        self.more = ""
        self.overrides = ""
        for name in ("inbox", "assets", "plugins", "state/jobs/1/original"):
            (root / name).mkdir(parents=True)
        self.write("plugins/still.py", _STILL)
        self.write("plugins/shy.py", _SHY)

    def write(self, relative: str, content: str | bytes = "") -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def picture(self, relative: str, size: int = 8) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), "red").save(path)
        return path

    def original(self, relative: str, content: str | bytes) -> str:
        """What was taken from the inbox."""
        self.write(f"state/jobs/1/original/{relative}", content)
        return relative

    @property
    def config(self) -> Config:
        text = _CONFIG.format(settle=self.settle, marked=str(self.marked).lower()) + self.more
        config = load_config(self.write("atenea.toml", text))
        return config.model_copy(update={"overrides": parse_job_toml(self.overrides.encode(), "overrides")})

    def intake(
        self, relative: str, preset: str | None = None, previous: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The result of one attempt."""
        config = self.config
        plugins = PluginManager(config.paths.plugins)
        intake = Intake(config, plugins, self.folder, relative=relative, preset=preset, previous=previous or {})
        return intake.run("1")

    def job(self, relative: str, preset: str | None = None) -> Job:
        """The job that intake makes."""
        result = self.intake(relative, preset)
        assert set(result) == {"steps", "priority", "inputs"}, result
        return read_job_file(self.folder)

    def mistakes(self, relative: str, preset: str | None = None) -> tuple[str, list[str]]:
        """The file that is refused, and why."""
        with pytest.raises(MistakesError) as caught:
            self.intake(relative, preset)
        assert not (self.folder / "job.json").exists()
        return caught.value.subject, list(caught.value.mistakes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


# Jobs of each kind


def test_a_text_becomes_a_job_of_the_configurations_plugins(bench: Bench) -> None:
    bench.more = '[tts.espeak]\nrate = 200\n[post]\nplugins = ["poster"]\n'
    assert bench.intake(bench.original("hello.txt", "\ufeffHello\r\n")) == {
        "steps": [
            {"stage": "tts", "plugin": "espeak", "needs": "cpu", "options": {"rate": 200}},
            {"stage": "audio", "plugin": "wav", "needs": "cpu", "options": {}},
            {"stage": "render", "plugin": "still", "needs": "gpu", "options": {}},
            {"stage": "mux", "plugin": "", "needs": "cpu", "options": {}},
            {"stage": "post", "plugin": "poster", "needs": "cpu", "options": {}},
            {"stage": "publish", "plugin": "", "needs": "publish", "options": {}},
        ],
        "priority": 0,
        "inputs": {"text": sha256("Hello")},
    }
    assert read_job_file(bench.folder) == Job(
        id="1",
        name="hello",
        text="Hello",
        tts=StageSettings(plugin="espeak", options={"rate": 200}),
        audio=StageSettings(plugin="wav"),
        render=StageSettings(plugin="still"),
        post=(StageSettings(plugin="poster"),),
    )


def test_a_job_with_speech_of_its_own_has_no_tts_stage(bench: Bench) -> None:
    bench.write("inbox/voice.wav", b"RIFF")
    result = bench.intake(bench.original("hello.toml", "audio_file = 'voice.wav'"))
    assert [step["stage"] for step in result["steps"]] == ["audio", "render", "mux", "publish"]
    assert result["inputs"] == {"audio_file": sha256("RIFF")}
    job = read_job_file(bench.folder)
    assert (job.text, job.tts) == (None, None)
    assert job.audio_file == bench.folder / "input/audio_file/voice.wav"
    assert job.audio_file.read_bytes() == b"RIFF"


def test_a_folder_is_one_job_with_its_files(bench: Bench) -> None:
    bench.original("show.v1/job.toml", "text_file = 'texts/a.md'\navatar = 'ana.png'")
    bench.original("show.v1/texts/a.md", "From a file\n")
    picture = bench.picture("state/jobs/1/original/show.v1/ana.png")
    job = bench.job("show.v1")
    assert (job.name, job.text) == ("show.v1", "From a file")
    assert job.avatar == bench.folder / "input/avatar/ana.png"
    assert job.avatar.read_bytes() == picture.read_bytes()


def test_the_worker_reads_a_job_by_its_task(bench: Bench) -> None:
    bench.write("elsewhere/voice.wav", b"RIFF")
    bench.original("hello.toml", "audio_file = 'voice.wav'")
    arguments = {"relative": "hello.toml", "preset": None, "previous": {}, "beside": str(bench.root / "elsewhere")}
    task = Task(kind="intake", needs=frozenset({"intake"}), job_id="1", folder=str(bench.folder), arguments=arguments)
    config = bench.config
    result = read_job(task, config, PluginManager(config.paths.plugins))
    assert result["inputs"] == {"audio_file": sha256("RIFF")}


# Layers


_PRESET = """
[presets.news]
priority = 4
avatar = "anchor.png"
[presets.news.tts]
voice = "de"
rate = 100
[presets.news.post]
plugins = ["poster"]
"""


def test_the_job_wins_over_its_preset_and_this_over_the_configuration(bench: Bench) -> None:
    bench.more = "[tts.espeak]\npitch = 1\nrate = 99\n" + _PRESET
    bench.picture("assets/anchor.png")
    job = bench.job(bench.original("news/a.toml", "text = 'x'\n[tts]\nrate = 300\n[post.poster]\nat = 1.0"), "news")
    assert job.tts == StageSettings(plugin="espeak", options={"pitch": 1, "voice": "de", "rate": 300})
    assert job.post == (StageSettings(plugin="poster", options={"at": 1.0}),)
    assert (job.preset, job.priority, job.name) == ("news", 4, "a")
    assert job.avatar == bench.folder / "input/avatar/anchor.png"


def test_a_text_in_a_presets_folder_takes_its_settings(bench: Bench) -> None:
    bench.more = _PRESET
    bench.picture("assets/anchor.png")
    job = bench.job(bench.original("news/a.txt", "x"), "news")
    assert job.tts == StageSettings(plugin="espeak", options={"voice": "de", "rate": 100})
    assert job.priority == 4


def test_a_preset_that_is_gone_by_now_changes_nothing(bench: Bench) -> None:
    job = bench.job(bench.original("news/a.txt", "x"), "news")
    assert (job.preset, job.priority, job.tts) == ("news", 0, StageSettings(plugin="espeak"))


def test_a_preset_can_give_what_is_spoken_and_a_job_replaces_it_whole(bench: Bench) -> None:
    bench.more = "[presets.jingle]\naudio_file = 'jingle.wav'\n"
    bench.write("assets/jingle.wav", b"RIFF")
    assert bench.job(bench.original("jingle/a.toml", "priority = 1"), "jingle").audio_file is not None
    job = bench.job(bench.original("jingle/b.toml", "text = 'other'"), "jingle")
    assert (job.text, job.audio_file) == ("other", None)


def test_overrides_win_over_everything(bench: Bench) -> None:
    bench.overrides = "priority = 9\navatar = 'mine.png'\n[tts]\nvoice = 'fr'"
    mine = bench.picture("inbox/mine.png", 9)
    bench.picture("state/jobs/1/original/a.png")
    job = bench.job(bench.original("a.txt", "x"))
    assert (job.priority, job.tts) == (9, StageSettings(plugin="espeak", options={"voice": "fr"}))
    assert job.avatar
    assert job.avatar.read_bytes() == mine.read_bytes()


# Pictures of the same stem


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".PNG"])
def test_the_picture_of_the_same_stem_is_the_avatar(bench: Bench, suffix: str) -> None:
    picture = bench.picture(f"state/jobs/1/original/hello{suffix}")
    result = bench.intake(bench.original("hello.txt", "x"))
    assert result["inputs"] == {"text": sha256("x"), "avatar": sha256(picture.read_bytes())}
    job = read_job_file(bench.folder)
    assert job.avatar == bench.folder / f"input/avatar/hello{suffix}"
    assert job.avatar.read_bytes() == picture.read_bytes()


def test_the_picture_of_another_user_is_an_avatar_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))  # as fs.protected_hardlinks has it

    monkeypatch.setattr(os, "link", refuse)
    bench.picture("state/jobs/1/original/hello.png")
    assert bench.job(bench.original("hello.txt", "x")).avatar == bench.folder / "input/avatar/hello.png"


def test_a_picture_that_may_not_be_read_is_a_mistake(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    bench.picture("state/jobs/1/original/hello.png")
    relative = bench.original("hello.txt", "x")
    monkeypatch.setattr(durable, "copy_synced", refuse)
    sentence = "avatar: 'hello.png' may not be read by atenea; run chmod g+r on it, and drop the job again"
    assert bench.mistakes(relative) == ("hello.txt", [sentence])


def test_it_wins_over_the_presets_avatar_which_need_not_be_there(bench: Bench) -> None:
    bench.more = _PRESET
    bench.picture("state/jobs/1/original/news/hello.png")
    job = bench.job(bench.original("news/hello.txt", "x"), "news")
    assert job.avatar == bench.folder / "input/avatar/hello.png"


def test_a_link_of_the_same_stem_is_not_followed(bench: Bench) -> None:
    bench.picture("secret.png")
    (bench.folder / "original/hello.png").symlink_to(bench.root / "secret.png")
    assert bench.job(bench.original("hello.txt", "x")).avatar is None


def test_a_name_that_is_not_utf8_makes_a_job_too(bench: Bench) -> None:
    bench.picture("state/jobs/1/original/caf\udce9.png")
    job = bench.job(bench.original("caf\udce9.txt", "x"))
    assert job.name == "caf_"
    assert job.avatar == bench.folder / "input/avatar/caf_.png"


def test_a_name_of_255_bytes_makes_a_job_too(bench: Bench) -> None:
    job = bench.job(bench.original(f"{'a' * 251}.txt", "x"))
    assert (job.name, job.avatar) == ("a" * 200, None)


# Named files


def test_files_are_looked_up_beside_the_job_then_in_the_assets(bench: Bench) -> None:
    near, far = bench.picture("inbox/sub/a.png", 5), bench.picture("assets/sub/a.png", 6)
    relative = bench.original("hello.toml", "text = 'x'\navatar = 'sub/a.png'")
    assert bench.intake(relative)["inputs"]["avatar"] == sha256(near.read_bytes())
    near.unlink()
    assert bench.intake(relative)["inputs"]["avatar"] == sha256(far.read_bytes())
    assert far.exists()


def test_a_job_in_a_presets_folder_has_its_files_beside_it_there(bench: Bench) -> None:
    bench.more = "[presets.news]\n"
    bench.picture("inbox/a.png", 5)
    near = bench.picture("inbox/news/a.png", 6)
    relative = bench.original("news/hello.toml", "text = 'x'\navatar = 'a.png'")
    assert bench.intake(relative, "news")["inputs"]["avatar"] == sha256(near.read_bytes())


def test_the_files_of_a_preset_are_in_the_assets_alone(bench: Bench) -> None:
    bench.more = _PRESET
    bench.picture("inbox/anchor.png")
    bench.picture("inbox/news/anchor.png")
    assert bench.intake(bench.original("news/a.txt", "x"), "news") == {"waiting": {"anchor.png": None}}


def test_missing_files_are_waited_for(bench: Bench) -> None:
    relative = bench.original("hello.toml", "text_file = 'a.txt'\navatar = 'gone/ana.png'")
    assert bench.intake(relative) == {"waiting": {"a.txt": None, "gone/ana.png": None}}
    assert not (bench.folder / "job.json").exists()
    bench.write("inbox/a.txt", "x")
    assert bench.intake(relative) == {"waiting": {"gone/ana.png": None}}
    bench.picture("inbox/gone/ana.png")
    assert bench.job(relative).text == "x"


def test_a_file_is_used_once_two_readings_agree(bench: Bench) -> None:
    bench.settle = 1
    file = bench.write("inbox/a.txt", "one")
    relative = bench.original("hello.toml", "text_file = 'a.txt'")
    first = bench.intake(relative)
    assert first == {"waiting": {"a.txt": list(Reading.of(file.stat()))}}
    file.write_text("one and two")
    second = bench.intake(relative, previous=first["waiting"])
    assert second == {"waiting": {"a.txt": list(Reading.of(file.stat()))}}
    assert second != first
    third = bench.intake(relative, previous=second["waiting"])
    assert third["inputs"]["text"] == sha256("one and two")


def test_a_file_that_arrives_must_settle_too(bench: Bench) -> None:
    bench.settle = 1
    relative = bench.original("hello.toml", "text_file = 'a.txt'")
    first = bench.intake(relative)
    assert first == {"waiting": {"a.txt": None}}
    bench.write("inbox/a.txt", "x")
    assert set(bench.intake(relative, previous=first["waiting"])["waiting"]) == {"a.txt"}


def test_a_file_that_changes_while_it_is_copied_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.write("inbox/a.txt", "x")
    fsync = os.fsync

    def change_meanwhile(descriptor: int) -> None:
        file.write_text("xy")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", change_meanwhile)
    relative = bench.original("hello.toml", "text_file = 'a.txt'")
    assert bench.intake(relative) == {"waiting": {"a.txt": list(Reading.of(file.stat()))}}


def test_a_second_attempt_forgets_the_copies_of_the_first(bench: Bench) -> None:
    bench.write("inbox/a.txt", "x")
    bench.job(bench.original("hello.toml", "text_file = 'a.txt'"))
    bench.job(bench.original("hello.toml", "text = 'y'"))
    assert list((bench.folder / "input").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../secret.png", "is not a path inside the folder"),
        ("sub/../../secret.png", "is not a path inside the folder"),
        ("ABSOLUTE/secret.png", "is not a path inside the folder"),
        ("", "is not a path inside the folder"),
        ("a//b.png", "is not a path inside the folder"),
        ("nul\\u0000.png", "is not a path inside the folder"),
        ("link.png", "is a symbolic link"),
        ("dangling.png", "is a symbolic link"),
        ("linked/secret.png", "Not a directory"),
        ("sub", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_plain_file_inside_is_refused(bench: Bench, name: str, why: str) -> None:
    bench.picture("secret.png")
    inbox = bench.root / "inbox"
    (inbox / "sub").mkdir()
    (inbox / "link.png").symlink_to(bench.root / "secret.png")
    (inbox / "dangling.png").symlink_to("nowhere")
    (inbox / "linked").symlink_to(bench.root)
    os.mkfifo(inbox / "pipe")
    name = name.replace("ABSOLUTE", str(bench.root))
    shown = name.replace("\\u0000", "\0")
    assert bench.mistakes(bench.original("hello.toml", f'text = "x"\navatar = "{name}"')) == (
        "hello.toml",
        [f"avatar: {shortened(repr(shown))} is no plain file beside the job or in the assets folder ({why})"],
    )


def test_a_link_in_a_job_folder_is_refused_too(bench: Bench) -> None:
    bench.write("secret.txt", "secret")
    bench.original("show/job.toml", "text_file = 'a.txt'")
    (bench.folder / "original/show/a.txt").symlink_to(bench.root / "secret.txt")
    assert bench.mistakes("show") == (
        "show/job.toml",
        ["text_file: 'a.txt' is no plain file beside the job or in the assets folder (is a symbolic link)"],
    )


def test_a_file_that_is_too_large_is_refused(bench: Bench) -> None:
    bench.write("inbox/a.wav", b"x" * 5000)
    bench.job(bench.original("hello.toml", "audio_file = 'a.wav'"))
    (bench.folder / "job.json").unlink()
    bench.write("inbox/a.wav", b"x" * 5001)
    assert bench.mistakes("hello.toml") == ("hello.toml", ["audio_file: 'a.wav' is larger than 5,000 bytes"])


def test_a_long_suffix_is_no_reason_to_fail(bench: Bench) -> None:
    name = "a." + "b" * 253
    bench.write(f"inbox/{name}", "x")
    assert bench.job(bench.original("hello.toml", f"text_file = '{name}'")).text == "x"


# Mistakes


@pytest.mark.parametrize(
    ("name", "data", "mistake"),
    [
        ("a.txt", b"gr\xfc\xdfe", "line 1 is not UTF-8 (byte 0xfc); save it as UTF-8"),
        ("a.txt", b" \n", "has no text in it; write what is to be spoken"),
        ("a.txt", b"x" * 101, "has 101 characters of text; 100 are the most"),
        ("a.txt", b"x" * 401, "is larger than 400 bytes; see [limits] in the configuration"),
        ("a.toml", b"#" * 2001, "is larger than 2,000 bytes; see [limits] in the configuration"),
        ("a.toml", b"", "says nothing to speak: set text, text_file or audio_file"),
        ("A.TOML", b"text = 3", "text: should be a valid string, but is 3"),
    ],
)
def test_a_file_that_cannot_be_a_job_says_why(bench: Bench, name: str, data: bytes, mistake: str) -> None:
    assert bench.mistakes(bench.original(name, data)) == (name, [mistake])


def test_a_text_as_long_as_it_may_be(bench: Bench) -> None:
    text = "語" * 100
    assert bench.job(bench.original("a.txt", text)).text == text


def test_an_empty_text_names_its_key(bench: Bench) -> None:
    relative = bench.original("a.toml", "text = ' '")
    assert bench.mistakes(relative) == ("a.toml", ["text: has no text in it; write what is to be spoken"])


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        (b"\xff\xfea\x00", "is UTF-16; save it as UTF-8"),
        (b"x" * 401, "is larger than 400 bytes; see [limits] in the configuration"),
        (b"", "has no text in it; write what is to be spoken"),
    ],
)
def test_a_mistake_in_a_named_text_names_that_file(bench: Bench, data: bytes, mistake: str) -> None:
    bench.write("inbox/speech.md", data)
    relative = bench.original("a.toml", "text_file = 'speech.md'")
    assert bench.mistakes(relative) == ("a.toml", [f"text_file: 'speech.md' {mistake}"])


def test_mistakes_in_keys_options_and_names_are_told_together(bench: Bench) -> None:
    relative = bench.original("a.toml", "text = ' '\nprio = 1\navatar = '../ana.png'\n[render]\nfsp = 3\nfps = 'x'")
    subject, mistakes = bench.mistakes(relative)
    assert subject == "a.toml"
    assert [mistake.partition(":")[0] for mistake in mistakes] == [
        "prio",
        "text",
        "render.fps",
        "render.fsp",
        "avatar",
    ]


def test_mistakes_do_not_wait_for_files_that_are_missing(bench: Bench) -> None:
    relative = bench.original("a.toml", "text = 'x'\navatar = 'later.png'\n[tts]\nrate = 0")
    assert bench.mistakes(relative) == ("a.toml", ["tts.rate: should be greater than or equal to 80, but is 0"])


def test_the_job_file_of_a_folder_is_named_with_it(bench: Bench) -> None:
    bench.original("show/job.toml", "texx = 'a'")
    assert bench.mistakes("show") == ("show/job.toml", ["texx: unknown key; did you mean 'text'?"])


def test_a_link_put_in_place_of_the_original_is_not_followed(bench: Bench) -> None:
    bench.write("secret.txt", "secret")
    (bench.folder / "original/a.txt").symlink_to(bench.root / "secret.txt")
    assert bench.mistakes("a.txt") == ("a.txt", ["cannot be read: is a symbolic link"])


def test_all_mistakes_of_plugins_and_options_are_told_at_once(bench: Bench) -> None:
    bench.write("inbox/ana.png", "no picture")
    relative = bench.original(
        "a.toml",
        """
        text = "x"
        avatar = "ana.png"
        [tts]
        plugin = "espeak"
        voise = "en"
        rate = "fast"
        [audio]
        plugin = "wave"
        [render]
        plugin = "poster"
        [post]
        plugins = ["poster", "still", "poter"]
        [post.poster]
        quality = 1000
        [post.mark]
        x = 1
        """,
    )
    plugins = bench.root / "plugins"
    shipped = Path(__file__).parent.parent / "plugins"
    assert bench.mistakes(relative) == (
        "a.toml",
        [
            'tts.rate: should be a valid integer, but is "fast"',
            "tts.voise: unknown key; did you mean 'voice'?",
            "audio.plugin: there is no plugin 'wave'; did you mean 'wav'?",
            f"render.plugin: plugin 'poster' ({shipped / 'poster.py'}) has no render stage, only post; "
            "name one that has",
            "post.poster.quality: should be less than or equal to 95, but is 1000",
            f"post.plugins: plugin 'still' ({plugins / 'still.py'}) has no post stage, only render; name one that has",
            "post.plugins: there is no plugin 'poter'; did you mean 'poster'?",
            "post.mark: is no plugin of this job; list it in post.plugins, or remove the table",
        ],
    )


def test_what_names_programs_of_the_machine_is_for_the_configuration_alone(bench: Bench) -> None:
    reserved = """
    from typing import ClassVar
    from atenea import PluginOptions, hookimpl
    class Options(PluginOptions):
        configuration_only: ClassVar = frozenset({"program"})
        program: str = "true"
    @hookimpl
    def STAGE(job, ctx): ...
    """
    for stage in ("render", "post"):
        bench.write(f"plugins/my_{stage}.py", dedent(reserved).replace("STAGE", stage))
    bench.more = """
[render.my_render]
program = "false"
[presets.slow.render]
plugin = "my_render"
program = "sleep"
"""
    theirs = "text = 'x'\n[render]\nplugin = 'my_render'\n"
    assert bench.job(bench.original("a.toml", theirs)).render.options["program"] == "false"
    assert bench.job(bench.original("slow/a.toml", "text = 'x'"), "slow").render.options["program"] == "sleep"

    (bench.folder / "job.json").unlink()
    mine = f"{theirs}program = 'rm'\n[post]\nplugins = ['my_post']\n[post.my_post]\nprogram = 'rm'\n"
    assert bench.mistakes(bench.original("a.toml", mine)) == (
        "a.toml",
        [
            "render.program: only the configuration may set it",
            "post.my_post.program: only the configuration may set it",
        ],
    )


def test_a_plugin_says_itself_what_it_would_refuse(bench: Bench) -> None:
    relative = bench.original("a.toml", "text = 'x'\n[tts]\nvoice = 'klingonn'\n[render]\nplugin = 'shy'")
    subject, (voice, avatar) = bench.mistakes(relative)
    assert subject == "a.toml"
    assert voice.startswith("plugin 'espeak': ")
    assert "klingonn" in voice
    assert avatar == "plugin 'shy': needs an avatar: name one"
    bench.picture("inbox/ana.png")
    bench.job(bench.original("a.toml", "text = 'x'\navatar = 'ana.png'\n[render]\nplugin = 'shy'"))


def test_a_picture_with_too_many_pixels_is_refused(bench: Bench) -> None:
    bench.picture("state/jobs/1/original/a.png", 101)
    assert bench.mistakes(bench.original("a.txt", "x")) == (
        "a.txt",
        ["avatar: a.png has 101 x 101 pixels, and 10000 in all are the most that is read: make it smaller"],
    )


def test_a_broken_plugin_is_a_mistake_of_the_jobs_that_want_it(bench: Bench) -> None:
    path = bench.write("plugins/broken.py", "import nothing_of_the_kind")
    relative = bench.original("a.toml", "text = 'x'\n[render]\nplugin = 'broken'")
    assert bench.mistakes(relative) == (
        "a.toml",
        [
            f"render.plugin: plugin 'broken' ({path}) needs the Python package 'nothing_of_the_kind', "
            "which is missing; install it where atenea is installed"
        ],
    )
    assert bench.job(bench.original("b.txt", "x")).name == "b"


def test_a_retry_needs_no_file_but_what_was_copied(bench: Bench) -> None:
    file = bench.write("inbox/a.txt", "x")
    relative = bench.original("hello.toml", "text_file = 'a.txt'")
    first = bench.intake(relative)
    file.unlink()
    assert bench.intake(relative) == first
    assert read_job_file(bench.folder).text == "x"
    file.write_text("y")
    assert bench.job(relative).text == "y"


def test_a_copy_that_had_to_be_waited_for_leaves_those_of_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.write("inbox/a.txt", "x")
    relative = bench.original("hello.toml", "text_file = 'a.txt'")
    bench.job(relative)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: file.write_text("half of what"))
        assert "waiting" in bench.intake(relative)
    file.unlink()
    assert bench.job(relative).text == "x"


def posts(bench: Bench, relative: str, preset: str | None = None) -> list[str]:
    """The post plugins of the job."""
    return [settings.plugin for settings in bench.job(relative, preset).post]


def test_every_video_is_marked_at_the_end_whatever_the_job_lists(bench: Bench) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    bench.marked = True
    assert posts(bench, bench.original("a.txt", "x")) == ["provenance"]
    for listed, found in {
        "[]": ["provenance"],
        "['poster']": ["poster", "provenance"],
        "['poster', 'provenance']": ["poster", "provenance"],
    }.items():
        assert posts(bench, bench.original("a.toml", f"text = 'x'\n[post]\nplugins = {listed}")) == found
    bench.more = "[presets.drafts.post.provenance]\nenabled = false\n"
    assert posts(bench, bench.original("a.txt", "x"), "drafts") == []
    assert posts(bench, bench.original("a.txt", "x")) == ["provenance"]


def test_a_job_cannot_change_how_videos_are_marked(bench: Bench) -> None:
    off = bench.original("a.toml", "text = 'x'\n[post.provenance]\nenabled = false\ntimestamp_url = 'http://x'\n")
    bench.marked = True
    assert bench.mistakes(off) == (
        "a.toml",
        [
            "post.provenance.enabled: only the configuration may set it",
            "post.provenance.timestamp_url: only the configuration may set it",
        ],
    )
    bench.marked = False
    assert bench.mistakes(bench.original("b.toml", "text = 'x'\n[post.provenance]\nenabled = true\n")) == (
        "b.toml",
        ["post.provenance: is no plugin of this job; list it in post.plugins, or remove the table"],
    )
    early = bench.original("c.toml", "text = 'x'\n[post]\nplugins = ['provenance', 'poster']\n")
    assert bench.mistakes(early) == (
        "c.toml",
        ["post.plugins: 'provenance' must be the last one, because a later plugin would break its signature"],
    )
