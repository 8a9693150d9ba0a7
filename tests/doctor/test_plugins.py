"""What the configuration gives to plugins, and plugins that look at the machine: well, badly, never ending."""

from __future__ import annotations

import asyncio
import sys

import pytest
from system.instance import Instance

from atenea import Finding
from atenea.config import load_config
from atenea.doctor.plugins import plugin_sections, uses
from atenea.finding import finding_of

STAGE = "\n@hookimpl\ndef post(ctx): pass\n@hookimpl\ndef diagnose(ctx):\n    "
HOOKS = {
    "raises": "raise KeyError('lost')",
    "refuses": "raise PermanentError('it has no licence; buy one')",
    "dies": "import os; os._exit(7)",
    "guesses": "return ['all is well']",
    "finds": "return [Finding('moon', 'note', f'it is {ctx.options.phase} in {ctx.models}', 'wait')]",
    "silent": "return None",
}
MOON = "\nclass Options(PluginOptions):\n    phase: str = 'new'\n"


@pytest.fixture
def instance(tmp_path):
    return Instance(tmp_path)


def sections(instance, seconds=60.0):
    return asyncio.run(plugin_sections(load_config(instance.folder / "atenea.toml"), {}, seconds))


def one(found):
    (finding,) = found
    return finding.status, finding.text, finding.cure


def test_what_plugins_find_and_how_they_fail(instance):
    for name, code in HOOKS.items():
        instance.plugin(name, MOON + STAGE + code)
    instance.configure(
        f"[post]\nplugins = {list(HOOKS)}\n[presets.full.post.finds]\nphase = 'full'\n[presets.same]\npriority = 1\n"
    )
    found = sections(instance)
    mend = "mend or remove the plugin"
    assert one(found["raises"]) == ("problem", "diagnose plugin 'raises' failed: KeyError: 'lost'", mend)
    assert one(found["refuses"]) == ("problem", "diagnose plugin 'refuses': it has no licence", "buy one")
    assert one(found["dies"]) == (
        "problem",
        "the worker of the diagnosis of plugin 'dies' ended with exit code 7",
        mend,
    )
    assert one(found["guesses"])[1] == "diagnose plugin 'guesses': returned something else than a list of findings"
    models = instance.folder / "models"
    assert one(found["finds"]) == ("note", f"it is new in {models}", "wait")
    assert one(found["full/finds"]) == ("note", f"it is full in {models}", "wait")
    assert found["silent"] == [] and "same/finds" not in found
    assert [finding.check for finding in found["plugins"]][:2] == ["dies", "espeak"]


def test_a_plugin_that_never_comes_to_an_end(instance):
    instance.plugin("hangs", STAGE + "import time\n    while True: time.sleep(0.1); ctx.log.debug('still looking')")
    instance.configure("[post]\nplugins = ['hangs']\n")
    assert one(sections(instance, seconds=1)["hangs"]) == (
        "problem",
        "plugin 'hangs' looked at this machine for 1 s without an end, and was ended",
        "mend or remove the plugin, if it does that again",
    )


def test_plugins_that_cannot_be_used(instance):
    instance.plugin("loose", STAGE + "pass")
    (instance.plugins / "loose.py").chmod(0o666)
    instance.plugin("broken", "def (:")
    instance.plugin("poor", "import no_such_package\n" + STAGE + "pass")
    instance.configure(
        "[post]\nplugins = ['loose', 'poor']\n[tts.espeak]\nrate = 1\n"
        "[audio]\nplugin = 'waw'\n[render]\nplugin = 'espeak'\n"
    )
    found = sections(instance)
    told = {finding.text.split("'")[1]: finding for finding in found["plugins"] if finding.check == "refused"}
    assert told.pop("espeak").text.endswith("has no render stage, only tts")
    assert {name: finding.status for name, finding in told.items()} == {
        "loose": "problem",
        "poor": "problem",
        "broken": "note",
    }
    path = instance.plugins / "loose.py"
    assert told["loose"].text == f"plugin 'loose' is refused: {path} can be changed by every user"
    assert told["loose"].cure == f"protect it: chmod go-w {path}"
    assert told["poor"].cure == "install it where atenea is installed"
    assert "is not valid Python: line 3" in told["broken"].text
    assert [(finding.status, finding.text, finding.cure) for finding in found["configuration"]] == [
        (
            "problem",
            "tts.espeak.rate: should be greater than or equal to 80, but is 1",
            "mend it in the configuration; docs/reference.md has every option",
        ),
        ("problem", "audio.plugin: there is no plugin 'waw'", "did you mean 'wav'?"),
    ]
    assert found["espeak"] == [], "its options are wrong, which was told already"


def test_options_that_end_the_worker(instance):
    validator = "\n    @field_validator('phase')\n    def _known(cls, value): import os; os._exit(7)\n"
    instance.plugin("deadly", "from pydantic import field_validator\n" + MOON + validator + STAGE + "pass")
    instance.configure("[post]\nplugins = ['deadly']\n[post.deadly]\nphase = 'full'\n")
    (refused,) = (finding for finding in sections(instance)["plugins"] if finding.check == "refused")
    assert (refused.status, refused.cure) == ("problem", "mend or remove the plugin")
    assert refused.text == "the worker of the check of the configuration ended with exit code 7"


def test_no_worker_can_be_started(instance, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    instance.configure("")
    found = sections(instance)
    assert found.keys() == {"plugins"}
    assert one(found["plugins"]) == (
        "problem",
        "the plugins cannot be listed: the worker of the list of plugins cannot be started: No such file or directory",
        "let this user start /nowhere/python",
    )


def test_plugins_in_use(instance):
    instance.configure(
        "[post]\nplugins = ['poster']\n[post.provenance]\nenabled = false\n"
        "[presets.a.tts]\nvoice = 'de'\n[presets.b]\naudio_file = 'x.wav'\n[presets.c.render]\nplugin = 'hallo2'\n"
    )
    used = [(use.title, use.stage) for use in uses(load_config(instance.folder / "atenea.toml"))]
    assert used == [
        ("espeak", "tts"),
        ("wav", "audio"),
        ("preview", "render"),
        ("poster", "post"),
        ("a/espeak", "tts"),
        ("c/hallo2", "render"),
    ]


def test_findings():
    sentence = "a.toml: is wrong; mend it"
    assert finding_of("file", "problem", sentence, "pray") == Finding("file", "problem", "a.toml: is wrong", "mend it")
    assert finding_of("file", "problem", "it is wrong", "pray") == Finding("file", "problem", "it is wrong", "pray")
    with pytest.raises(ValueError, match="status is one of ok, note, problem, not 'bad'"):
        Finding("x", "bad", "it is bad")
    with pytest.raises(ValueError, match="'it is bad' has no cure"):
        Finding("x", "problem", "it is bad")
    with pytest.raises(ValueError, match="the note 'it is odd' has no cure: say what to do"):
        Finding("x", "note", "it is odd")
