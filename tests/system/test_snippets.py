"""What the documentation tells people to type is typed, page by page, and does what the page says.

docs/setup.md has its place in `test_setup`, on the machines that are set up there.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.hub_server import serve
from snippets import ROOT, SHELLS, Command, snippets
from system.instance import Instance, wait_until
from system.machine import Machine, booted
from system.screen import Screen
from system.shell import Page, Shell, checkout, pages
from wild.ssh import Server
from wild.tools import needs

JOB_ON_THE_PAGE = "1k0z7zz37v3"


def test_nobody_forgets_a_snippet() -> None:
    """Each is in exactly one `Page`, at whose end all of it has been typed."""
    files = Path(__file__).parent.glob("test_*.py")
    typed = Counter(snippet for file in files for page in pages(file) for snippet in page.snippets)
    assert typed == Counter(snippets(*SHELLS))
    assert [snippet for snippet in typed if not snippet.commands()] == []
    others = snippets("", "python", "toml", "ini")
    assert [snippet for snippet in others if re.search(r"^\$ ", snippet.text, re.MULTILINE)] == []


@contextmanager
def server(folder: Path, home: Path) -> Iterator[Shell]:
    """A shell from which the machine `server` can be reached, where people have this home."""
    for name in ("keys", "laptop"):
        (folder / name).mkdir()
    sshd = Server(folder / "keys", home)
    try:
        yield Shell(folder / "laptop", {**os.environ, "PATH": f"{sshd.programs()}:{os.environ['PATH']}"})
    finally:
        sshd.stop()


@contextmanager
def public_hub(shell: Shell) -> Iterator[None]:
    """A hub on this machine is meant where the shell's commands ask the public one for models, of 5.8 GB there."""
    before = shell.environment
    kept = {name: value for name, value in before.items() if not name.lower().endswith("_proxy")}
    kept.pop("HF_HUB_OFFLINE", None)
    with serve() as hub:
        shell.environment = {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(shell.folder / "hub")}
        yield
        shell.environment = before


def accept(terminal: Screen) -> None:
    """Accept the licences of the models, and wait for them."""
    wait_until(lambda: "Do you accept these licences? [y/N]" in terminal.said(), "the question")
    terminal.press("y\n")
    wait_until(lambda: terminal.process.poll() is not None, "the models")
    assert terminal.process.returncode == 0, terminal.said()
    assert "all 9 files are there and right" in terminal.said()


def test_readme(tmp_path: Path) -> None:
    """As if everything had been installed before: from nothing, `test_make_run` does it."""
    needs("make", "make")
    here = checkout(tmp_path / "atenea")
    outbox = here.folder / "outbox"
    with Page("README.md") as page:
        assert here.type(page.next("make run")).splitlines()[-1] == str(outbox / "hello.mp4")
        with here.running(page.next(".venv/bin/atenea run")):
            here.type(page.next('echo "Good evening." > inbox/evening.txt'))
            wait_until((outbox / "evening.mp4").exists, "evening.mp4")
            with server(tmp_path, tmp_path) as elsewhere:
                (elsewhere.folder / "morning.txt").write_text("Good morning.")
                elsewhere.type(page.next("scp morning.txt server:"))
                wait_until((outbox / "morning.mp4").exists, "morning.mp4")
                elsewhere.type(page.next("scp server:"))
                assert (elsewhere.folder / "morning.mp4").read_bytes() == (outbox / "morning.mp4").read_bytes()
        assert sorted(path.name for path in outbox.glob("*.mp4")) == ["evening.mp4", "hello.mp4", "morning.mp4"]
        said = here.type(page.next(".venv/bin/pip install -e"))
        assert "already satisfied: torch" in said
        assert "Successfully installed atenea" in said
        with public_hub(here), here.on_a_terminal(page.next(".venv/bin/atenea models download")) as terminal:
            accept(terminal)
    assert (here.folder / "models" / "hallo2" / "net.pth").exists()


def test_inbox(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "atenea").mkdir(parents=True)
    instance = Instance(home / "atenea")
    with Page("docs/inbox.md") as page, server(tmp_path, home) as elsewhere:
        (elsewhere.folder / "hello.txt").write_text("Hello.")
        elsewhere.type(page.next("scp hello.txt server:"))
        assert instance.atenea("run", "--once").stdout == f"{instance.outbox / 'hello.mp4'}\n"
    assert os.listdir(instance.inbox) == []


def test_models(tmp_path: Path) -> None:
    here = checkout(tmp_path / "atenea")
    with Page("docs/models.md") as page, public_hub(here):
        assert "already satisfied: torch" in here.type(page.next(".venv/bin/pip install -e"))
        with here.on_a_terminal(page.next(".venv/bin/atenea models download")) as terminal:
            accept(terminal)
        verified = here.type(page.next(".venv/bin/atenea models verify"))
        assert verified.startswith(f"{here.folder / 'models'}: all 9 files are right")


def test_plugins(tmp_path: Path) -> None:
    here = checkout(tmp_path / "atenea")
    (here.folder / "hello.txt").write_text("Hello.")
    (here.folder / "test.toml").write_text("[post]\nplugins = ['poster']\n")
    with Page("docs/plugins.md") as page:
        here.type(page.next(".venv/bin/atenea generate -i hello.txt -o hello.mp4"))
        assert (here.folder / "hello.mp4").exists()
        here.type(page.next("cp -r examples/plugin-template ../atenea-voice"))
        assert "Successfully installed atenea-morse" in here.type(page.next(".venv/bin/pip install"))
        assert "morse 0.1.0: tts\n" in here.type(page.next(".venv/bin/atenea plugins"))


def test_the_plugin_template(tmp_path: Path) -> None:
    here = checkout(tmp_path / "atenea")
    with Page("examples/plugin-template/README.md") as page:
        here.type(page.next("cp -r examples/plugin-template ../atenea-voice"))
        installed = here.type(page.next(".venv/bin/pip install"))
        assert "already satisfied: pytest" in installed
        assert "Successfully installed atenea-morse" in installed
        assert "8 passed" in here.type(page.next(".venv/bin/pytest ../atenea-voice"))
        assert "morse 0.1.0: tts\n" in here.type(page.next(".venv/bin/atenea plugins"))


def test_provenance(tmp_path: Path) -> None:
    here = checkout(tmp_path / "atenea")
    with Page("docs/provenance.md") as page:
        assert "already satisfied: c2pa-python" in here.type(page.next(".venv/bin/pip install -e"))
        here.type(Command(".venv/bin/atenea generate -i examples/hello.txt -o hello.mp4"))
        assert here.type(page.next(".venv/bin/atenea show --provenance")) != ""


def test_systemd(tmp_path: Path) -> None:
    with booted(tmp_path) as machine, Page("docs/systemd.md") as page:

        def type_in(command: Command, given: str = "") -> str:
            return machine.run("bash", "-euc", f"cd {ROOT}\n{command.text}", given=given)

        before = machine.started().show("MainPID")
        type_in(page.next("install -m 600 /dev/stdin"), given="sk-of-the-service\n")
        assert machine.run("stat", "--format=%U %a", "/etc/atenea/openai_api_key") == "root 600\n"
        after = machine.show("MainPID")
        assert after not in (before, {"MainPID": "0"})

        type_in(page.next("install -D -m 644 etc/systemd/cpu-only.conf"))
        type_in(page.next("systemctl daemon-reload && systemctl restart"))
        assert machine.show("ActiveState", "PrivateNetwork") == {"ActiveState": "active", "PrivateNetwork": "yes"}

        machine.drop("hello.txt", "Hello.")
        machine.drop("wrong.toml", "text = 3\n")
        machine.output("wrong.error.txt")
        machine.output("hello.mp4")
        job = wait_until(lambda: machine.log("job finished"), "the journal")[0]["ATENEA_JOB"]
        about = page.next("journalctl -u atenea ATENEA_JOB=")
        assert JOB_ON_THE_PAGE in about.text
        lines = type_in(Command(about.text.replace(JOB_ON_THE_PAGE, job))).splitlines()
        assert [line for line in lines if f"job={job}" not in line] == []
        assert "job taken" in lines[0]
        assert "job finished" in lines[-1]
        [wrong] = type_in(page.next("journalctl -u atenea -p warning")).splitlines()
        assert "wrong.toml" in wrong
        entries = [json.loads(line) for line in type_in(page.next("journalctl -u atenea -o json")).splitlines()]
        assert {"MESSAGE", "ATENEA_JOB", "ATENEA_STAGE"} <= set().union(*entries)
        assert [entry["ATENEA_STAGE"] for entry in entries if entry["MESSAGE"].startswith("stage started")]
        takes_additions_to_its_unit(machine)


def takes_additions_to_its_unit(machine: Machine) -> None:
    """Those on all pages, at once."""
    machine.run("install", "-D", "/dev/null", "/etc/atenea/provenance.key")
    machine.run("mkdir", "/srv/atenea")
    with machine.changed("".join(snippet.text for snippet in snippets("ini"))):
        assert machine.show("ReadWritePaths") == {"ReadWritePaths": "/srv/atenea"}
        assert machine.succeeds("test", "-e", "/run/credentials/atenea.service/provenance.key")
