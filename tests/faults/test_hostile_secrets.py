"""Who may know a key, and who may change what runs: asked of real processes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from system.conftest import new_instance
from system.instance import PATIENCE_SECONDS, NewInstance

from atenea.config import load_config
from atenea.errors import ConfigError
from atenea.plugin_files import UnsafePluginError, read_plugin

__all__ = ["new_instance"]

KEY = "sk-proj-Vq81xQ0pZr7LmN2cT5uWb9EyKaHdGfJs"
_PR_CAPBSET_DROP = 24
_LOOKING = (19, 21, 38)
"""CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON: with each of them one may look into every process."""

SPY = """
import os
needs = {needs}

def looked_at(name):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"q81xQ0pZr7LmN2cT" + b"5uWb9" in (process / name).read_bytes():
                found.append(process.name)
        except OSError:
            pass
    return found

@hookimpl
def post(job, video, ctx):
    ctx.report["cmdline"] = looked_at("cmdline")
    ctx.report["environ"] = [process for process in looked_at("environ") if int(process) not in {known!r}]
    ctx.report["knows"] = "OPENAI_API_KEY" in os.environ
    try:
        os.close(os.open(f"/proc/{{os.getppid()}}/mem", os.O_RDONLY))
        ctx.report["parent"] = "open"
    except PermissionError:
        ctx.report["parent"] = "refused"
"""


def without_looking() -> None:
    """As for every user but root: no looking into what may not be looked into."""
    if os.geteuid() == 0:
        for capability in _LOOKING:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_no_process_shows_the_key_to_a_plugin_of_the_same_user(new_instance: NewInstance) -> None:
    instance = new_instance("[post]\nplugins = ['online', 'offline']\n")
    known = {os.getpid(), os.getppid()}  # what runs the tests may have a key of its own
    instance.plugin("offline", SPY.format(needs="{'cpu'}", known=known))
    instance.plugin("online", SPY.format(needs="{'network'}", known=known))
    instance.drop("a.txt", "Hello.")
    ran = subprocess.run(
        instance.command("run", "--once", "--config", str(instance.folder / "atenea.toml")),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=instance.folder,
        env={**instance.environment, "OPENAI_API_KEY": KEY},
        preexec_fn=without_looking,
    )
    assert ran.returncode == 0, ran.stderr
    stages = reports_of(instance.outbox / "a.json")
    for name, knows in (("offline", False), ("online", True)):
        report = stages[name]
        assert report == {"cmdline": [], "environ": [], "knows": knows, "parent": "refused"}
    assert KEY not in ran.stderr + ran.stdout


def reports_of(report: Path) -> dict[str, dict[str, object]]:
    """What each plugin put into the report."""
    return {stage["plugin"]: stage.get("report", {}) for stage in json.loads(report.read_text())["stages"]}


def test_a_process_that_does_not_hide_can_be_read() -> None:
    """So the test above would notice."""
    program = (
        "import os, subprocess, sys\n"
        "from atenea.credentials import hide_from_others\n"
        "hide_from_others() if sys.argv[1] == 'hide' else None\n"
        'look = \'import os; print(b"sk-proj" in open(f"/proc/{os.getppid()}/environ", "rb").read())\'\n'
        "env = {name: value for name, value in os.environ.items() if name != 'KEY'}\n"
        "print(subprocess.run([sys.executable, '-c', look], env=env, capture_output=True, text=True))\n"
    )
    for how, shows in (("hide", False), ("show", True)):
        ran = subprocess.run(
            [sys.executable, "-c", program, how],
            capture_output=True,
            text=True,
            env={**os.environ, "KEY": KEY},
            preexec_fn=without_looking,
        )
        assert ("stdout='True" in ran.stdout) is shows, ran
        assert ("PermissionError" in ran.stdout) is not shows, ran


# What others could have changed


@pytest.mark.parametrize(("mode", "who"), [(0o646, "every user"), (0o666, "every user")])
def test_a_configuration_that_everybody_may_write(tmp_path: Path, mode: int, who: str) -> None:
    file = tmp_path / "atenea.toml"
    file.write_text("")
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: can be changed by {who}; protect it: chmod go-w {file}"
    file.chmod(0o644)
    load_config(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_configuration_that_a_shared_group_may_write(tmp_path: Path) -> None:
    file = tmp_path / "atenea.toml"
    file.write_text("")
    os.chown(file, 0, 54321)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match="can be changed by the group 54321; protect it: chmod go-w"):
        load_config(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_plugins_folder_that_a_shared_group_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1")
    os.chown(folder, 0, 54321)
    folder.chmod(0o775)
    with pytest.raises(UnsafePluginError, match=rf"{folder} can be changed by the group 54321; protect it: chmod go-w"):
        read_plugin(folder / "a.py")


def test_a_daemon_with_an_open_configuration_does_not_start(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "atenea.toml").chmod(0o666)
    done = instance.atenea("run", "--once", code=2)
    file = instance.folder / "atenea.toml"
    assert done.stderr == f"atenea: {file}: can be changed by every user; protect it: chmod go-w {file}\n"
