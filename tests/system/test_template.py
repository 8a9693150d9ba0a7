"""The plugin template: it installs, and the daemon finds and uses it; its own tests pass in `test_snippets`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from system.instance import NewInstance

TEMPLATE = Path(__file__).parents[2] / "examples" / "plugin-template"


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, as somebody copies it."""
    folder = tmp_path_factory.mktemp("template") / "atenea-voice"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="module")
def installed(copied: Path) -> Path:
    """The folder that pip installed it into; on the path of Python, it is found like any other distribution."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the template, is not installed")
    target = copied.parent / "packages"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target), str(copied), cwd=copied)
    return target


def test_it_is_listed_and_used(installed: Path, new_instance: NewInstance) -> None:
    instance = new_instance('[tts]\nplugin = "morse"\n[tts.morse]\nwords_per_minute = 40\n', PYTHONPATH=str(installed))
    [listed] = [plugin for plugin in instance.ask("plugins")["plugins"] if plugin["name"] == "morse"]
    assert (listed["source"], listed["version"]) == ("atenea-morse 0.1.0", "0.1.0")
    assert (listed["stages"], listed["needs"], listed["refused"], listed["enabled"]) == (["tts"], ["cpu"], None, True)

    instance.drop("sos.txt", "SOS")
    assert instance.atenea("run", "--once").stdout == f"{instance.outbox / 'sos.mp4'}\n"
    [tts, *_] = json.loads((instance.outbox / "sos.json").read_text())["stages"]
    assert (tts["plugin"], tts["version"], tts["report"]) == ("morse", "0.1.0", {"signs": 9})
    assert tts["options"] == {"words_per_minute": 40.0, "pitch": 600}
