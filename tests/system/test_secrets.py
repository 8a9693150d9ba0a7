"""A key reaches the plugins that need the network, and nothing that is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from system.gates import DRAW
from system.instance import Instance, NewInstance, wait_until

KEY = "sk-proj-Vq81xQ0pZr7LmN2cT5uWb9EyKaHdGfJs"

TALKATIVE = f"""
import os, sys, time
needs = {{"network"}}
{DRAW}

@hookimpl
def render(job, wav, ctx):
    key = os.environ["OPENAI_API_KEY"]
    print("printed", key)
    print("printed as an error", key, file=sys.stderr)
    os.write(1, b"written " + key.encode() + b"\\n")
    ctx.log.info("logged " + key, key=key, nested={{"deep": [key]}})
    ctx.report["key"] = key
    ctx.report[key] = {{"nested": [key]}}
    for _ in range(3):
        ctx.progress(0.5, "progress " + key)
        time.sleep(0.12)  # progress is sent ten times a second
    gate = Path({{gate!r}})
    while not gate.exists():
        ctx.progress(0.5, "progress " + key)
        time.sleep(0.01)
    if job.name == "raises":
        raise ValueError("raised " + key)
    if job.name == "transient" and not (ctx.workdir / "again").exists():
        (ctx.workdir / "again").touch()
        raise TransientError("once " + key)
    if job.name == "dies":
        print("last words", key)
        os._exit(1)
    return draw(job, wav, ctx)
"""

CONFIG = """
[render]
plugin = "talkative"
[outbox]
progress_files = true
[retry]
first_seconds = 0.01
"""


@pytest.fixture
def talkative(new_instance: NewInstance) -> Instance:
    instance = new_instance(CONFIG, OPENAI_API_KEY=KEY)
    instance.plugin("talkative", TALKATIVE.replace("{gate!r}", repr(str(instance.folder / "gate"))))
    return instance.start()


def files_with_the_key(folder: Path) -> list[str]:
    """Every file below the folder that has the key, or enough of it, in its bytes or its name."""
    part = KEY[8:24]
    # Not `rglob`, which breaks off when the daemon, which is at work, removes a folder.
    paths = sorted(Path(inside, name) for inside, folders, files in os.walk(folder) for name in folders + files)
    return [str(path) for path in paths if part in path.name or part.encode() in _content(path)]


def _content(path: Path) -> bytes:
    """What is in a file; nothing if it was removed or renamed just now."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""


def test_a_talkative_plugin_leaks_the_key_nowhere(talkative: Instance) -> None:
    names = ("fine", "raises", "transient", "dies")
    for name in names:
        talkative.drop(f"{name}.txt", f"This is {name}.")
    for name in names:
        talkative.wait_for_job(name, lambda job: job["progress"] == "progress [secret]", "to render")
    progress = talkative.output("fine.progress.txt")
    wait_until(lambda: "progress [secret]" in progress.read_text(), "the progress file")
    assert "progress [secret]" in talkative.atenea("show", "fine").stdout
    assert files_with_the_key(talkative.folder) == []
    (talkative.folder / "gate").touch()
    for name in names:
        talkative.wait_for_state(name, "failed" if name in {"raises", "dies"} else "done")
    left = ["dies.error.txt", "fine.json", "fine.mp4", "raises.error.txt", "transient.json", "transient.mp4"]
    wait_until(lambda: talkative.outputs() == left, "the progress files to go")
    assert files_with_the_key(talkative.folder) == []

    stages = json.loads((talkative.outbox / "fine.json").read_text())["stages"]
    assert stages[2]["report"] == {"key": "[secret]", "[secret]": {"nested": ["[secret]"]}}
    raised = (talkative.outbox / "raises.error.txt").read_text()
    assert raised.splitlines()[0] == "render plugin 'talkative' failed: ValueError: raised [secret]"
    assert "last words [secret]" in (talkative.outbox / "dies.error.txt").read_text()
    for arguments in (("show", "fine", "--json"), ("show", "raises"), ("show", "dies", "--json"), ("jobs",)):
        assert KEY[8:24] not in talkative.atenea(*arguments).stdout
    logged = [entry for entry in talkative.events() if entry["event"] == "logged [secret]"]
    assert {entry["key"] for entry in logged} == {"[secret]"}
    printed = {entry["line"] for entry in talkative.events("worker output")}
    assert {"printed [secret]", "printed as an error [secret]", "written [secret]"} <= printed


def test_only_plugins_that_need_the_network_see_the_key(new_instance: NewInstance) -> None:
    look = "import os\n{needs}@hookimpl\ndef post(job, video, ctx):\n"
    look += "    ctx.report['seen'] = os.environ.get('OPENAI_API_KEY') is not None\n"
    instance = new_instance("[post]\nplugins = ['offline', 'online']\n", OPENAI_API_KEY=KEY)
    instance.plugin("offline", look.format(needs=""))
    instance.plugin("online", look.format(needs="needs = {'network'}\n"))
    instance.drop("hello.txt", "Hello.")
    instance.atenea("run", "--once")
    stages = json.loads((instance.outbox / "hello.json").read_text())["stages"]
    assert [(stage["plugin"], stage["report"]) for stage in stages[3:]] == [
        ("offline", {"seen": False}),
        ("online", {"seen": True}),
    ]


def test_commands_that_only_look_give_the_key_to_no_plugin(new_instance: NewInstance) -> None:
    instance = new_instance(OPENAI_API_KEY=KEY)
    seen = instance.folder / "seen"
    instance.plugin(
        "curious",
        f"import os\nneeds = {{'network'}}\nPath({str(seen)!r}).write_text(str('OPENAI_API_KEY' in os.environ))\n"
        "@hookimpl\ndef post(job, video, ctx): ...\n",
    )
    instance.atenea("plugins")
    assert seen.read_text() == "False"


def test_the_key_may_come_from_a_private_file_or_from_systemd(new_instance: NewInstance) -> None:
    see = "import os\nneeds = {'network'}\n@hookimpl\ndef post(job, video, ctx):\n"
    see += "    ctx.report['end'] = os.environ['OPENAI_API_KEY'][-4:]\n"
    instance = new_instance("[post]\nplugins = ['see']\n")
    instance.plugin("see", see)
    secrets = instance.folder / "atenea.env"
    secrets.write_text(f"OPENAI_API_KEY={KEY}\n")
    secrets.chmod(0o600)
    instance.drop("file.txt", "Hello.")
    instance.atenea("run", "--once")
    credentials = instance.folder / "credentials"
    credentials.mkdir()
    (credentials / "openai_api_key").write_text("sk-from-systemd-1234\n")
    instance.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    instance.drop("systemd.txt", "Hello.")
    instance.atenea("run", "--once")
    ends = [
        json.loads((instance.outbox / f"{name}.json").read_text())["stages"][-1]["report"]["end"]
        for name in ("file", "systemd")
    ]
    assert ends == [KEY[-4:], "1234"]


def test_a_file_of_secrets_that_others_may_read_is_refused_with_the_cure(new_instance: NewInstance) -> None:
    instance = new_instance()
    secrets = instance.folder / "atenea.env"
    secrets.write_text(f"OPENAI_API_KEY={KEY}\n")
    secrets.chmod(0o644)
    done = instance.atenea("run", "--once", code=2)
    assert done.stderr == f"atenea: {secrets}: others may read the secrets in it; run: chmod 600 {secrets}\n"
    assert os.listdir(instance.outbox) == []
    secrets.chmod(0o600)
    instance.atenea("run", "--once")
