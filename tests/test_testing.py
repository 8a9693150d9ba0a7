"""What plugin authors test with; shipped plugins pass it, and each way to be wrong is found."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import pytest
from PIL import Image

from atenea import Finding, PermanentError, TimedText, TransientError
from atenea.errors import Cancelled, MistakesError, UsageError
from atenea.media.audio import wav_info
from atenea.plugin_manager import HookError
from atenea.testing import StageError, check_plugin, diagnose, find_mistakes, write_portrait, write_speech, write_video

PLUGINS = Path(__file__).parents[1] / "plugins"

SPEAKER = """
    import wave
    from pathlib import Path
    from atenea import *

    class Options(PluginOptions):
        pieces: int = 4
        tail: str = ""

    def write(path, seconds=1):
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(b"\\\\0\\\\1" * 16000 * seconds)
        return path

    @hookimpl
    def tts(job, ctx):
        for piece in range(ctx.options.pieces):
            ctx.progress(piece / ctx.options.pieces, f"piece {piece}")
        ctx.log.info("spoken", words=len(job.text.split()))
        ctx.report["text"] = job.text + ctx.options.tail
        ctx.save_timing([TimedText(job.text, 0.0, 1.0)])
        ctx.attach(write(ctx.workdir / "copy.wav"), ".wav")
        return write(ctx.workdir / "speech.wav")
"""


@pytest.fixture
def plugin(tmp_path):
    """Writes a plugin's file."""

    def write(code: str, name: str = "mine") -> Path:
        path = tmp_path / "plugins" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code).replace("\\\\", "\\"))
        return path

    return write


def test_a_stage(atenea_stage, plugin):
    result = atenea_stage(plugin(SPEAKER), "tts", text="Two words.", options={"tail": "!"})
    assert wav_info(result.path) == 16_000
    assert result.progress == ((0.0, "piece 0"), (0.25, "piece 1"), (0.5, "piece 2"), (0.75, "piece 3"))
    assert result.report == {"text": "Two words.!"}
    assert result.timing == (TimedText("Two words.", 0.0, 1.0),)
    assert result.options == {"pieces": 4, "tail": "!"}
    assert list(result.attachments) == [".wav"] and wav_info(result.attachments[".wav"]) == 16_000
    assert result.log == ({"event": "spoken", "words": 2, "log_level": "info"},)


def test_what_a_plugin_prints_is_the_tests_own(atenea_stage, plugin, capsys):
    code = "from atenea import *\n@hookimpl\ndef post(job):\n    print('hello')"
    assert atenea_stage(plugin(code), "post").path is None
    assert capsys.readouterr().out == "hello\n"


def test_cancelled_at_a_call_of_progress(atenea_stage, plugin):
    code = """
        from atenea import *

        @hookimpl
        def post(ctx):
            trail = ctx.workdir / "trail"
            steps = len(trail.read_text()) if trail.exists() else 0
            for step in range(steps, 5):
                trail.write_text("x" * (step + 1))
                ctx.progress(step / 5)
    """
    with pytest.raises(Cancelled):
        atenea_stage(plugin(code), "post", cancel_at=3)
    # The same job goes on in its work folder, another begins anew.
    assert [fraction for fraction, _ in atenea_stage(plugin(code), "post").progress] == [0.6, 0.8]
    assert len(atenea_stage(plugin(code), "post", job="another").progress) == 5


def test_inputs_are_made_or_given(atenea_stage, plugin, tmp_path):
    code = """
        from atenea import *

        @hookimpl
        def render(job, wav, ctx):
            ctx.report.update(wav=str(wav), avatar=job.avatar.name, speech=str(ctx.speech), timing=len(ctx.timing))
            return wav.rename(ctx.workdir / "made.wav")

        @hookimpl
        def post(job, video, ctx):
            ctx.report.update(video=str(video), inside=ctx.video == video, text=job.text, before=list(ctx.stages))
    """
    made = atenea_stage(
        plugin(code), "render", seconds=0.5, avatar=write_portrait(tmp_path / "ana.png"), timing=[TimedText("a", 0, 1)]
    )
    assert wav_info(made.path) == 8_000
    assert (made.report["avatar"], made.report["timing"]) == ("ana.png", 1)
    film = write_video(tmp_path / "film.mp4")
    voice = write_speech(tmp_path / "voice.wav")
    given = atenea_stage(plugin(code), "post", video=film, audio_file=voice, stages=[{"stage": "render"}])
    assert given.report == {"video": str(film), "inside": True, "text": None, "before": [{"stage": "render"}]}


def test_a_failure_is_what_the_daemon_makes_of_it(atenea_stage, plugin):
    code = """
        from atenea import *

        class Options(PluginOptions):
            kind: str = "busy"

        @hookimpl
        def tts(ctx):
            if ctx.options.kind == "busy":
                raise TransientError("busy", retry_after=7)
            if ctx.options.kind == "bug":
                1 / 0
            return ctx.workdir / "nothing.wav"
    """
    with pytest.raises(StageError, match="^tts plugin 'mine': busy$") as busy:
        atenea_stage(plugin(code), "tts")
    assert (busy.value.transient, busy.value.retry_after, busy.value.details) == (True, 7, "")
    assert isinstance(busy.value.__cause__, TransientError)
    with pytest.raises(StageError, match="tts plugin 'mine' failed: ZeroDivisionError") as bug:
        atenea_stage(plugin(code), "tts", options={"kind": "bug"})
    assert not bug.value.transient and "1 / 0" in bug.value.details
    with pytest.raises(StageError, match="a file that is not there") as missing:
        atenea_stage(plugin(code), "tts", options={"kind": "none"})
    assert isinstance(missing.value.__cause__, PermanentError)
    with pytest.raises(StageError, match=r"tts\.knd: .* did you mean 'kind'"):
        atenea_stage(plugin(code), "tts", options={"knd": "none"})
    with pytest.raises(StageError, match="has no render stage, only tts"):
        atenea_stage(plugin(code), "render")
    with pytest.raises(ValueError, match="there is no stage 'speak'"):
        atenea_stage(plugin(code), "speak")


def test_mistakes_that_intake_would_find(plugin, tmp_path):
    code = """
        from atenea import *

        @hookimpl
        def check(job):
            if job.text == "bug":
                1 / 0
            return f"no {job.text}"

        @hookimpl
        def post(): ...
    """
    file = plugin(code)
    assert find_mistakes(file, "post", folder=tmp_path, text="jokes") == ["plugin 'mine': no jokes"]
    [mistake] = find_mistakes(file, "post", folder=tmp_path, options={"a": 1})
    assert mistake.startswith("post.mine.a: ")
    with pytest.raises(HookError, match="ZeroDivisionError"):
        find_mistakes(file, "post", folder=tmp_path, text="bug")


def test_what_a_plugin_finds_on_the_machine(plugin, tmp_path):
    code = """
        from atenea import *

        class Options(PluginOptions):
            key: str = ""

        @hookimpl
        def diagnose(ctx):
            return [Finding("key", "problem", f"no key {ctx.options.key}", "set it")] if ctx.options.key else None

        @hookimpl
        def post(): ...
    """
    found = diagnose(plugin(code), folder=tmp_path, options={"key": "a"})
    assert found == [Finding("key", "problem", "no key a", "set it")]
    assert diagnose(plugin(code), folder=tmp_path) == []
    with pytest.raises(MistakesError):
        diagnose(plugin(code), folder=tmp_path, options={"kex": 1})


def test_a_whole_job(atenea_job, plugin, tmp_path):
    file = plugin(SPEAKER)
    done = atenea_job(file, options={"tail": 'ä"\n'}, config={"post": {"plugins": ["poster"], "poster": {"at": 0.2}}})
    assert done.error is None
    assert [(stage["stage"], stage["plugin"]) for stage in done.report["stages"]][:4] == [
        ("tts", "mine"),
        ("audio", "wav"),
        ("render", "preview"),
        ("post", "poster"),
    ]
    assert done.report["stages"][0]["report"] == {"text": 'Hello from a test.ä"\n'}
    assert sorted(done.files) == [".jpg", ".json", ".mp4", ".wav"]
    assert [line["words"] for line in done.log if line["event"] == "spoken"] == [4]
    with av.open(str(done.video)) as video:
        assert video.streams.video[0].frames == 25


def test_a_job_that_fails_and_one_that_cannot_start(atenea_job, plugin):
    file = plugin("from atenea import *\n@hookimpl\ndef tts(job):\n    raise TransientError('busy')")
    failed = atenea_job(file, job_file='text = "Hello."')
    assert failed.error.splitlines()[0] == "tts plugin 'mine': busy (given up after 1 attempts)"
    assert (failed.video, failed.report) == (None, {})
    with pytest.raises(UsageError, match=r"atenea\.toml: tts\.mine\.sped: "):
        atenea_job(file, options={"sped": 2})


@pytest.mark.parametrize("name", ["espeak", "wav", "preview", "poster"])
def test_shipped_plugins_pass(name):
    check_plugin(PLUGINS / f"{name}.py")


def test_by_name_and_by_path(atenea_stage):
    first = atenea_stage("wav", "audio", seconds=0.25)
    second = atenea_stage(str(PLUGINS / "wav.py"), "audio", seconds=0.25, job="second")
    assert wav_info(first.path) == wav_info(second.path) == 4_000


HEAD = "from atenea import *\nimport wave\nfrom pathlib import Path\n"
WAV = """
def sound(ctx):
    path = ctx.workdir / "s.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\\\\0\\\\1" * 16000)
    return path
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("@hookimpl\ndef tts(job, wav): ...", "argument 'wav' that is never passed"),
        ("needs = {'tpu'}\n@hookimpl\ndef tts(job): ...", "its needs are {'tpu'}"),
        ("class Options(PluginOptions):\n  a: int = 'x'\n@hookimpl\ndef post(): ...", "Options.a: "),
        ("class Options(PluginOptions):\n  a: int\n@hookimpl\ndef post(): ...", "Options.a: "),
        (
            "class Options(PluginOptions):\n  configuration_only = frozenset({'b'})\n@hookimpl\ndef post(): ...",
            "configuration_only names 'b', which is no option",
        ),
        ("@hookimpl\ndef tts(job): return __file__", "a path outside its work folder"),
        ("@hookimpl\ndef tts(job): ...", "returned NoneType instead of the path of a file"),
        ("@hookimpl\ndef check(job): return 'no'\n@hookimpl\ndef post(): ...", "is refused, give check_plugin"),
        ("@hookimpl\ndef diagnose(): return ['x']\n@hookimpl\ndef post(): ...", "else than a list of findings"),
        (
            "@hookimpl\ndef tts(ctx):\n  p = ctx.workdir / 'a.wav'; p.write_text('no sound'); return p",
            "tts() returned what cannot be used",
        ),
        (
            f"{WAV}\n@hookimpl\ndef tts(ctx):\n  ctx.save_timing([TimedText('late', 2, 3)]); return sound(ctx)",
            "'late' from 2 to 3 s, in speech of 1 s",
        ),
        (
            f"{WAV}\n@hookimpl\ndef tts(ctx):\n"
            "  ctx.save_timing([TimedText('b', 0.5, 1), TimedText('a', 0, 0.5)]); return sound(ctx)",
            "has 'a' after 'b', but it begins before it",
        ),
        (
            "from atenea.testing import write_video\n@hookimpl\ndef render(ctx):\n"
            "  return write_video(ctx.workdir / 'v.mp4', 2)",
            "render() returned what cannot be used: v.mp4 has 50 frames, and must have 25",
        ),
        (
            "from atenea.testing import write_speech\n@hookimpl\ndef post(ctx):\n"
            "  return write_speech(ctx.workdir / 'v.mp4')",
            "post() returned what cannot be used: v.mp4 has no picture",
        ),
        (
            "@hookimpl\ndef post(ctx):\n  try:\n    ctx.progress(0.5)\n  except BaseException:\n    pass",
            "post() went on when it was cancelled",
        ),
        (
            "@hookimpl\ndef post(ctx):\n  try:\n    ctx.progress(0.5)\n  except BaseException:\n    raise OSError('x')",
            "post() makes a failure of being cancelled",
        ),
    ],
)
def test_wrong_plugins_do_not_pass(plugin, code, says):
    with pytest.raises(AssertionError, match="^plugin 'mine' does not pass:\n- ") as failure:
        check_plugin(plugin(HEAD + code))
    assert says in str(failure.value)


def test_inputs(tmp_path):
    assert wav_info(write_speech(tmp_path / "a.wav", 0.3)) == 4_800
    with av.open(str(write_video(tmp_path / "a.mp4", 0.3, fps=30, size=128))) as video:
        picture, sound = video.streams.video[0], video.streams.audio[0]
        assert (picture.frames, picture.width, picture.height, picture.average_rate) == (9, 128, 128, 30)
        assert sound.codec_context.name == "aac"
    with Image.open(write_portrait(tmp_path / "a.png", 256)) as portrait:
        assert (portrait.format, portrait.size) == ("PNG", (256, 256))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.png", "a.wav"]


def test_pytest_pays_nothing_for_the_fixtures(tmp_path):
    """Somebody's pytest that has nothing to do with atenea loads this one module and none of its own."""
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n"
        "def test_loaded(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('atenea')\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert 'pytest_atenea' in loaded\n"
        "    assert not loaded & {'atenea', 'pydantic', 'av', 'numpy', 'structlog', 'PIL'}\n"
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


WHOLE_JOB = "def test_job(atenea_job):\n    assert atenea_job('preview').error is None\n"


@pytest.mark.parametrize(
    ("code", "most"),
    [("def test_stage(atenea_stage):\n    atenea_stage('preview', 'render')\n", 150), (WHOLE_JOB, 300)],
    ids=["a stage", "a whole job"],
)
def test_it_is_light_on_memory(tmp_path, code, most):
    """MiB at the peak, of pytest and all processes that it starts; docs/plugins.md tells the figures."""
    (tmp_path / "test_it.py").write_text(code)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    with (tmp_path / "said").open("w") as said, subprocess.Popen(command, cwd=tmp_path, stdout=said) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(map(_share, _family(process.pid))) / 1024)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert 0 < peak <= most


def _family(pid: int) -> Iterator[int]:
    """A process, its children, theirs and so on."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                yield from _family(int(child))


def _share(pid: int) -> int:
    """Kibibytes that the process uses, with its part of what it shares with others; 0 when it is gone."""
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)[1])
    return 0
