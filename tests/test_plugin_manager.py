"""Plugins are found, checked, loaded under private names, and called by name."""

from __future__ import annotations

import sys
import textwrap
import traceback
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from structlog.testing import capture_logs

from atenea import Context, Job, PermanentError, StageSettings, plugin_sources
from atenea.errors import Cancelled, MistakesError
from atenea.plugin_manager import HookError, PluginError, PluginManager

GOOD = """
from atenea import PluginOptions, hookimpl
@hookimpl
def tts(job, ctx): return "spoken"
"""


class Folders:
    """A plugins folder, a folder that stands for the shipped ones, and distributions."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user, self.shipped, self.site = (tmp_path / name for name in ("user", "shipped", "site"))
        for folder in (self.user, self.shipped, self.site):
            folder.mkdir(mode=0o755)
        monkeypatch.setattr(plugin_sources, "shipped_folder", lambda: self.shipped)
        monkeypatch.syspath_prepend(self.site)

    def write(self, name: str, source: str = GOOD, *, folder: Path | None = None) -> Path:
        file = (folder or self.user) / f"{name}.py"
        file.write_text(textwrap.dedent(source))
        file.chmod(0o644)
        return file

    def distribution(self, name: str, points: str, source: str = GOOD) -> None:
        info = self.site / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[atenea]\n{points}\n")
        self.write(f"{name}_module", source, folder=self.site)

    def manager(self, **blocked: str) -> PluginManager:
        return PluginManager(self.user, blocked)

    def refusal(self, name: str = "bad") -> str:
        with pytest.raises(PluginError) as caught:
            self.manager().load(name)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    modules = set(sys.modules)
    yield Folders(tmp_path, monkeypatch)
    for name in set(sys.modules) - modules:
        if name.startswith("_atenea_plugin_") or name.endswith("_module"):
            del sys.modules[name]


@pytest.fixture
def job():
    settings = StageSettings(plugin="x")
    return Job(id="1", name="a", text="hello", audio=settings, render=settings)


@pytest.fixture
def ctx(tmp_path):
    return Context(workdir=tmp_path, cache=tmp_path, options=None, log=None, on_progress=lambda *_: None)


def test_what_is_a_plugin(folders):
    for name in ("a", "b-c", "_helper", ".hidden"):
        folders.write(name)
    (folders.user / "notes.txt").touch()
    (folders.user / "__pycache__").mkdir()
    assert folders.manager().names == ("a", "b-c")
    assert PluginManager(folders.user / "missing").names == ()


def test_finding_imports_nothing_and_loading_imports_once(folders):
    folders.write("a", "import sys; sys.loaded = getattr(sys, 'loaded', 0) + 1" + GOOD)
    try:
        manager = folders.manager()
        assert not hasattr(sys, "loaded")
        assert manager.load("a") is manager.load("a")
        assert sys.loaded == 1
    finally:
        vars(sys).pop("loaded", None)


def test_precedence(folders):
    for name in ("x", "y"):
        folders.write(name, GOOD.replace("spoken", "shipped"), folder=folders.shipped)
    folders.write("z", folder=folders.shipped)
    folders.distribution("dist", "x = dist_module\ny = dist_module")
    folders.write("x", GOOD.replace("spoken", "user"))
    with capture_logs() as logs:
        manager = folders.manager()
    infos = {info.name: info for info in manager.load_all()}
    assert infos["x"].source == str(folders.user / "x.py")
    assert infos["x"].shadows == ["dist 1.5", str(folders.shipped / "x.py")]
    assert (infos["y"].source, infos["y"].version) == ("dist 1.5", "1.5")
    assert infos["y"].shadows == [str(folders.shipped / "y.py")]
    assert infos["z"].version is not None
    assert {(entry["plugin"], entry["used"], entry["unused"]) for entry in logs} >= {
        ("x", str(folders.user / "x.py"), "dist 1.5"),
        ("y", "dist 1.5", str(folders.shipped / "y.py")),
    }


def test_the_shipped_folder_as_plugins_folder(folders):
    folders.write("a", folder=folders.shipped)
    folders.write("b", folder=folders.shipped).chmod(0o666)
    (folders.user / "..").resolve()
    good, bad = PluginManager(folders.shipped).load_all()
    assert (good.shadows, good.refused) == ([], None)
    assert "chmod go-w" in bad.refused


def test_a_plugin_does_not_hide_the_package_of_its_name(folders, job, ctx):
    folders.write(
        "openai",
        """
        import openai
        from atenea import hookimpl
        @hookimpl
        def tts(job, ctx):
            return openai
        """,
    )
    manager = folders.manager()
    assert manager.call("tts", "openai", job=job, ctx=ctx) is openai
    assert sys.modules["openai"] is openai
    assert "_atenea_plugin_openai" in sys.modules


def test_annotations_that_look_back_at_the_module(folders):
    folders.write(
        "a",
        """
        from __future__ import annotations
        import dataclasses
        from pydantic import BaseModel
        from atenea import PluginOptions, hookimpl
        class Options(PluginOptions):
            later: Later | None = None
        class Later(BaseModel):
            n: int
        @dataclasses.dataclass(kw_only=True)
        class D:
            n: dataclasses.KW_ONLY
        @hookimpl
        def tts(job, ctx): ...
        """,
    )
    assert folders.manager().options("a", {"later": {"n": 1}}).later.n == 1


def test_tracebacks_show_the_source(folders, job, ctx):
    folders.write("a", "from atenea import hookimpl\n@hookimpl\ndef tts(job, ctx):\n    raise ValueError('x')  # here")
    with pytest.raises(HookError, match=r"^tts plugin 'a' failed: ValueError: x$") as caught:
        folders.manager().call("tts", "a", job=job, ctx=ctx)
    assert "raise ValueError('x')  # here" in "".join(traceback.format_exception(caught.value))


def test_only_the_named_plugin_is_called(folders, job, ctx):
    for name in ("a", "b", "c"):
        folders.write(name, GOOD.replace("spoken", name))
    manager = folders.manager()
    manager.load_all()
    assert [manager.call("tts", name, job=job, ctx=ctx) for name in ("b", "a", "c")] == ["b", "a", "c"]


def test_what_passes_through_a_call(folders, job, ctx):
    folders.write("a", GOOD.replace('return "spoken"', "ctx.progress(1)"))
    folders.write("b", GOOD.replace('return "spoken"', "raise __import__('atenea').PermanentError('no')"))

    def cancel(*_):
        raise Cancelled

    ctx.on_progress = cancel
    with pytest.raises(Cancelled):
        folders.manager().call("tts", "a", job=job, ctx=ctx)
    with pytest.raises(HookError, match=r"^tts plugin 'b': no$") as caught:
        folders.manager().call("tts", "b", job=job, ctx=ctx)
    assert isinstance(caught.value.__cause__, PermanentError)


HOOK = "from atenea import *\n@hookimpl\ndef {}: ...\n"
REFUSED = {
    HOOK.format("rendr(job, wav, ctx)"): "there is no hook 'rendr'; did you mean 'render'?",
    HOOK.format("sing(job, ctx)"): "there is no hook 'sing'; valid: check, diagnose, tts, audio, render, post",
    HOOK.format("render(job, wave, ctx)"): "render() has an argument 'wave' that is never passed; valid: job, wav, ctx",
    HOOK.format("render(job, *, ctx)"): "render() takes ctx in a way that is never passed",
    HOOK.format("tts(**everything)"): "tts() takes **everything in a way that is never passed",
    HOOK.format(
        "check(job, ctx)"
    ): "it has no stage; define one of tts, audio, render, post and put @hookimpl above it",
    "def tts(job, ctx): ...": "it has no stage",
    GOOD.replace("def tts", "async def tts"): "tts() must be a plain function",
    GOOD.replace("return", "yield"): "tts() must be a plain function",
    GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("return", "yield"): "tts() must be a plain function",
    GOOD + "needs = 'gpu'": "its needs are 'gpu'; write a set of cpu, gpu, network",
    GOOD + "needs = {'tpu'}": "its needs are {'tpu'}; write a set of",
    GOOD + "needs = set()": "its needs are set(); write a set of",
    GOOD + "needs = {('x',): 1}": "write a set of",
    GOOD + "class Options: x = 1": "its Options are no subclass of atenea.PluginOptions",
    GOOD + "class Options(PluginOptions): x: type(lambda: 0)": "PydanticSchemaGenerationError",
    GOOD + "class Options(PluginOptions):\n    x: 'Nowhere'": "its Options cannot be described in JSON",
    "x = (": "is not valid Python: line 1: '(' was never closed",
    "import cv3.sub": "needs the Python package 'cv3', which is missing; install it where atenea is installed",
    "from os import nothing": "cannot be imported: ImportError: cannot import name 'nothing'",
    "import sys; sys.exit(3)": "calls sys.exit when it is imported",
    "raise KeyboardInterrupt": "cannot be imported: KeyboardInterrupt",
    "1 / 0": "cannot be imported: ZeroDivisionError: division by zero",
    "x = '\0'": "null bytes",
}


@pytest.mark.parametrize("source", REFUSED)
def test_refused(folders, source):
    file = folders.write("bad", source)
    refusal = folders.refusal()
    assert REFUSED[source] in refusal
    assert refusal.startswith(f"plugin 'bad' ({file}) ")
    assert "_atenea_plugin_bad" not in sys.modules or "is refused" in refusal or "is not a plugin" in refusal
    (info,) = folders.manager().load_all()
    assert info.refused == refusal


def test_refused_before_the_import(folders):
    file = folders.write("open", "raise SystemError")
    file.chmod(0o666)
    assert folders.refusal("open") == (
        f"plugin 'open' is refused: {file} can be changed by every user; protect it: chmod go-w {file}"
    )
    folders.write("a b", "raise SystemError")
    assert "has a name with other characters" in folders.refusal("a b")
    (folders.user / "gone.py").symlink_to("/nonexistent")
    assert "is a symbolic link" in folders.refusal("gone")
    with pytest.raises(PluginError, match="is not loaded: it hangs; mend or remove it"):
        folders.manager(open="it hangs").load("open")
    assert "did you mean 'open'?" in folders.refusal("opne")
    manager = folders.manager()
    folders.write("late", "")
    with pytest.raises(PluginError, match="plugin 'late' came after the daemon's start; send it SIGHUP, then: atenea"):
        manager.load("late")


def test_unreadable(folders, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path.name)

    monkeypatch.setattr(plugin_sources, "read_plugin", refuse)
    folders.write("bad")
    assert "cannot be read: Permission denied" in folders.refusal()


def test_one_broken_distribution_does_not_hide_the_others(folders):
    folders.distribution("one", "one = one_module:nothing")
    folders.distribution(
        "two",
        "two = two_module:plugin",
        GOOD + "\nclass P:\n    tts = hookimpl(lambda self, job, ctx: 1)\nplugin = P()",
    )
    folders.distribution("three", "three = three_module", "import nowhere")
    (folders.site / "four-1.dist-info").mkdir()
    (folders.site / "four-1.dist-info" / "entry_points.txt").write_bytes(b"[atenea]\n\xff\xfe = \n")
    infos = {info.name: info for info in folders.manager().load_all()}
    assert "AttributeError" in infos["one"].refused
    assert infos["two"].stages == ["tts"]
    assert "needs the Python package 'nowhere'" in infos["three"].refused


def test_info(folders):
    folders.write(
        "a",
        GOOD + "needs = ['network', 'gpu']\n__version__ = '3'\n"
        "class Options(PluginOptions):\n    loudness: float = 1.0\n"
        "@hookimpl\ndef post(video): ...\n@hookimpl\ndef check(job): ...\n",
    )
    (info,) = folders.manager().load_all(before := SimpleNamespace(names=[]).names.append)
    assert before.__self__ == ["a"]
    assert (info.stages, info.needs, info.version) == (["tts", "post"], ["gpu", "network"], "3")
    assert info.options["properties"]["loudness"] == {"default": 1.0, "title": "Loudness", "type": "number"}
    assert info.options["additionalProperties"] is False
    assert info.refused is None


def test_options(folders):
    folders.write("a", GOOD + "class Options(PluginOptions):\n    loudness: float = 1.0\n    name: str = ''\n")
    folders.write("b", GOOD)
    manager = folders.manager()
    assert manager.options("a", {"loudness": 2}).loudness == 2.0
    with pytest.raises(MistakesError) as caught:
        manager.options("a", {"loudnes": 2, "name": 3}, prefix="tts")
    assert len(caught.value.mistakes) == 2
    assert any("tts.loudnes: unknown key; did you mean 'loudness'?" in mistake for mistake in caught.value.mistakes)
    with pytest.raises(MistakesError, match="options of plugin 'b': x: unknown key"):
        manager.options("b", {"x": 1})


def test_a_validator_that_breaks(folders):
    folders.write(
        "a",
        GOOD + "import pydantic\nclass Options(PluginOptions):\n    x: int = 1\n"
        "    @pydantic.field_validator('x')\n    def f(cls, x): raise KeyError(x)\n",
    )
    with pytest.raises(PluginError, match="cannot check its options: KeyError: 2"):
        folders.manager().options("a", {"x": 2})


def test_provider(folders):
    folders.write("a")
    manager = folders.manager()
    assert manager.provider("tts", "a").needs == {"cpu"}
    with pytest.raises(PluginError, match="has no render stage, only tts; name one that has"):
        manager.provider("render", "a")


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None", []),
        ("'no avatar'", ["plugin 'a': no avatar"]),
        ("['x', 'y']", ["plugin 'a': x", "plugin 'a': y"]),
    ],
)
def test_mistakes_asks_the_plugin(folders, job, returned, expected):
    folders.write(
        "a",
        GOOD + f"@hookimpl\ndef check(job, ctx):\n    assert ctx.workdir.is_dir()\n    return {returned}\n",
    )
    manager = folders.manager()
    assert manager.mistakes(manager.load("a"), "tts", job.audio.options, job) == expected
    (mistake,) = manager.mistakes(manager.load("a"), "tts", {"x": 1}, job)
    assert mistake.startswith("tts.x: unknown key")
