"""`scripts/setup.sh`, with the commands of docs/setup.md: under a real systemd, and in a container without one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from snippets import Command
from system.instance import PATIENCE_SECONDS, wait_until
from system.machine import Machine
from system.screen import Screen
from system.shell import Page
from wild.tools import needs

import atenea

REPOSITORY = Path(__file__).parents[2]
SETUP = str(REPOSITORY / "scripts" / "setup.sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = shutil.which("python3", path=PATH) or "python3"
ATENEA = f"atenea {atenea.__version__}"

CHECKOUT = "LICENSE README.md atenea.service daemon docs etc hallo2 plugins pyproject.toml scripts"
COPY = f'mkdir -p "$0" && cd {REPOSITORY} && cp -r {CHECKOUT} "$0"'

NO_MODELS = [
    "models: fetching into paths.models of /etc/atenea/atenea.toml",
    "atenea: the models' licences have to be accepted, and there is no terminal to ask on; read docs/models.md and add"
    " --yes",
]

PACKAGES_STAY = "kept: packages that apt-get installed, as others may use them"
KEPT = [
    "kept: /etc/atenea /var/lib/atenea /var/cache/atenea, user atenea; --uninstall --purge removes them too",
    PACKAGES_STAY,
]
PURGED = ["removed: configuration, data, user atenea", PACKAGES_STAY]

PREREQUISITES = """
import ensurepip, os, sys, sysconfig, venv
assert sys.version_info >= (3, 11)
os.stat(sysconfig.get_path("include") + "/Python.h")
print(sys.version_info[1])
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The version of the Python that is installed for; skips where `setup.sh` would have to fetch packages."""
    if os.geteuid() != 0:
        pytest.skip("only root may install")
    if REPOSITORY.is_relative_to("/tmp") or REPOSITORY.is_relative_to("/run"):
        pytest.skip("atenea lies under /tmp or /run, which the machines here have of their own")
    there = subprocess.run([PYTHON, "-c", PREREQUISITES], capture_output=True, text=True)
    libsystemd = (
        subprocess.run(["pkg-config", "--exists", "libsystemd"]).returncode if shutil.which("pkg-config") else 1
    )
    if there.returncode or libsystemd or not shutil.which("cc") or not shutil.which("apt-get"):
        pytest.skip("setup.sh would install packages, and there is no network for it in a test")
    return f"3.{there.stdout.strip()}"


@pytest.fixture(scope="module")
def environment(python: str, pytestconfig: pytest.Config) -> list[str]:
    """What commands find in their environment: pip takes all from a folder, which is kept for the next time."""
    packages = [f"{REPOSITORY}[provenance,systemd]", "hatchling"]
    key = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes() + repr((python, packages)).encode())
    assert pytestconfig.cache
    wheels = pytestconfig.cache.mkdir("wheels") / key.hexdigest()[:12]
    with (wheels.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wheels.is_dir():
            for old in wheels.parent.glob("*/"):
                shutil.rmtree(old)
            fresh = wheels.with_suffix(".part")
            command = [sys.executable, "-m", "pip", "--python", PYTHON, "wheel", "--quiet", "--wheel-dir", str(fresh)]
            subprocess.run([*command, *packages], check=True, timeout=300)
            fresh.rename(wheels)
    return ["env", "-i", f"PATH={PATH}", "USER=ana", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={wheels}"]


# Under systemd


@pytest.fixture
def machine(tmp_path: Path, python: str) -> Iterator[Machine]:
    """A machine without a GPU on which nothing of atenea is installed; ana, in no group, may become root."""
    if not Path("/lib/systemd/systemd").exists() or not shutil.which("unshare"):
        pytest.skip("systemd is not installed")
    machine = Machine(tmp_path)
    try:
        machine.run("sh", "-c", COPY, "/srv/atenea")
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/proc/driver")
        machine.run("rm", "-f", "/usr/bin/nvidia-smi")
        machine.run("useradd", "--create-home", "ana")
        machine.write("/usr/local/bin/sudo", '#!/bin/sh\nexec "$@"\n')
        machine.run("chmod", "+x", "/usr/local/bin/sudo")
        yield machine
    finally:
        machine.power_off()


FAREWELL = (
    "Drop texts into /var/lib/atenea/inbox; videos appear in /var/lib/atenea/outbox. Who may: usermod -aG atenea NAME"
)

SSHD = """
echo 127.0.0.1 server >>/etc/hosts
usermod --password '*' --shell /bin/bash ana
mkdir -m 700 ~ana/.ssh
echo StrictHostKeyChecking no >~ana/.ssh/config
ssh-keygen -q -t ed25519 -N '' -f ~ana/.ssh/id_ed25519
cp ~ana/.ssh/id_ed25519.pub ~ana/.ssh/authorized_keys
chown -R ana:ana ~ana/.ssh
ssh-keygen -A
mkdir -p /run/sshd
systemd-run --quiet /usr/sbin/sshd -D -o UsePAM=no
until runuser -u ana -- ssh server true; do sleep 0.05; done
"""


class Reader:
    """Somebody who types what stands in docs/setup.md, in the checkout; as root, for that is what sudo does."""

    def __init__(self, machine: Machine, environment: list[str]) -> None:
        self.machine = machine
        self._environment = environment

    def type(self, command: Command, *, more: str = "", given: str = "", code: int = 0) -> list[str]:
        """Type a command, with more words perhaps; the lines that it prints."""
        words = ("bash", "-c", f"cd /srv/atenea\n{command.text} {more}\n[ $? = {code} ]")
        return self.machine.run(*self._environment, *words, given=given).splitlines()

    def from_anywhere(self, command: Command) -> list[str]:
        """What ana runs on her own machine, in her home folder."""
        return ["runuser", "-u", "ana", "--", "env", "--chdir=/home/ana", "bash", "-euc", command.text]


def test_the_documented_commands_on_a_machine_with_systemd(
    machine: Machine, environment: list[str], python: str, tmp_path: Path
) -> None:
    """What of the page is left out: to install the driver of a GPU, and torch and the models for it."""
    needs("sshd", "openssh-server")
    reader = Reader(machine, environment)
    with Page("docs/setup.md", without="RunPod, and other containers") as page:
        installed_for_the_first_time(reader, page, python)
        used_from_anywhere(reader, page, tmp_path)
        upgraded(reader, page, python)
        given_what_is_anas(reader, page)
        given_the_key(reader, page)
        uninstalled(reader, page)


def installed_for_the_first_time(reader: Reader, page: Page, python: str) -> None:
    """Up to the licences of the models: there is no terminal to accept them on, and no network to fetch them."""
    assert reader.type(page.next("sudo scripts/setup.sh --hallo2 --models"), code=2) == [
        f"packages: all there, with Python {python}",
        "/etc/sysusers.d/atenea.conf: written",
        "user atenea: made",
        "/etc/tmpfiles.d/atenea.conf: written",
        "/etc/atenea/atenea.toml: written",
        "hallo2: left out, for there is no NVIDIA driver; install one (docs/setup.md), then run this again",
        "program: installing with provenance,systemd, which takes a while",
        f"program: {ATENEA}, in /opt/atenea/venv",
        "/etc/systemd/system/atenea.service: written",
        "service: runs",
        *NO_MODELS,
    ]
    assert reader.machine.run("id", "-nG", "ana") == "ana\n"
    reader.type(page.next("sudo usermod -aG atenea"))
    assert reader.machine.run("id", "-nG", "ana") == "ana atenea\n"


def used_from_anywhere(reader: Reader, page: Page, folder: Path) -> None:
    """By ssh, from this machine itself: a picture that speaks."""
    machine = reader.machine
    machine.run("bash", "-euc", SSHD)
    machine.run("install", "-o", "ana", str(REPOSITORY / "docs" / "pictures" / "preview.png"), "/home/ana/ana.png")
    machine.write("/home/ana/ana.txt", "Hello from a machine of my own.")
    machine.run(*reader.from_anywhere(page.next("scp ana.png ana.txt")))
    watching = machine.command(*reader.from_anywhere(page.next("ssh -t server atenea jobs --watch")))
    with Screen(watching, folder, os.environ) as terminal:
        terminal.wait_for(lambda shown: re.search(r" ana +done", shown), "ana to be done")
        terminal.press("\x03")
        assert terminal.process.wait(PATIENCE_SECONDS) == 0
    machine.run(*reader.from_anywhere(page.next("scp server:")))
    assert machine.run("head", "--bytes=8", "/home/ana/ana.mp4").endswith("ftyp")
    assert "avatar" in json.loads(machine.run("cat", machine.output("ana.json")))["inputs"]


def upgraded(reader: Reader, page: Page, python: str) -> None:
    """Nothing is stopped while nothing has changed; jobs that wait are made by the newer code."""
    machine, install = reader.machine, page.next("sudo scripts/setup.sh")
    before = machine.show("MainPID")
    configuration = machine.run("cat", "/etc/atenea/atenea.toml") + "[render]\nplugin = 'preview'\n"
    machine.write("/etc/atenea/atenea.toml", configuration)
    unchanged = [f"packages: all there, with Python {python}", "/etc/atenea/atenea.toml: kept"]
    assert reader.type(install) == [*unchanged, f"program: {ATENEA}, as before", "service: runs, as before", FAREWELL]
    assert machine.show("MainPID") == before
    reader.type(page.next("sudo usermod -aG atenea"))

    machine.run_as("ana", "atenea", "pause")
    machine.drop("later.txt", "Said by newer code.")
    machine.run("sh", "-c", "echo >>/srv/atenea/plugins/poster.py")
    assert reader.type(install, more="--offline") == [
        *unchanged,
        "service: stopping; its jobs go on afterwards",
        "program: installing with provenance,systemd, which takes a while",
        f"program: {ATENEA}, in /opt/atenea/venv",
        "/etc/systemd/system/atenea.service.d/cpu-only.conf: written",
        "service: runs",
        FAREWELL,
    ]
    assert machine.show("MainPID") != before
    machine.run_as("ana", "atenea", "resume")
    machine.output("later.mp4")
    wait_until(lambda: machine.job("later")["state"] == "done", "the job to go on")
    assert machine.run("cat", "/etc/atenea/atenea.toml") == configuration


WORDS = """
from atenea import hookimpl


@hookimpl
def post(job, ctx):
    ctx.report["words"] = len(job.text.split())
"""

ALL_OF_ANAS = 'text = "Three words here."\navatar = "ana.png"\n[tts]\nplugin = "morse"\n[post]\nplugins = ["words"]\n'


def given_what_is_anas(reader: Reader, page: Page) -> None:
    """A plugin as a file, one as a package and a picture; one job uses all three."""
    machine = reader.machine
    machine.write("/srv/atenea/words.py", WORDS)
    machine.run("cp", "-r", str(REPOSITORY / "examples" / "plugin-template"), "/srv/atenea-voice")
    machine.run("cp", str(REPOSITORY / "docs" / "pictures" / "preview.png"), "/srv/atenea/ana.png")
    reader.type(page.next("sudo install -D -m 644 words.py"))
    assert "Successfully installed atenea-morse" in reader.type(page.next("sudo /opt/atenea/venv/bin/pip"))[-1]
    reader.type(page.next("sudo systemctl reload atenea"))
    wait_until(lambda: machine.log("configuration reloaded"), "the reload")
    reader.type(page.next("sudo install -D -m 644 ana.png"))

    machine.drop("own.toml", ALL_OF_ANAS)
    report = json.loads(machine.run("cat", machine.output("own.json")))
    said = {stage["plugin"]: stage.get("report") for stage in report["stages"]}
    assert "morse" in said
    assert said["words"] == {"words": 3}
    assert "avatar" in report["inputs"]


def given_the_key(reader: Reader, page: Page) -> None:
    """What asks for it is given it, though root alone can read it; there is no network to try it."""
    machine = reader.machine
    reader.type(page.next("sudo install -m 600 /dev/stdin"), given="sk-pasted\n")
    assert machine.run("stat", "--format=%U %a", "/etc/atenea/openai_api_key") == "root 600\n"
    before = machine.show("MainPID")
    reader.type(page.next("sudo systemctl restart atenea"))
    assert machine.show("MainPID") not in (before, {"MainPID": "0"})
    with_openai = machine.run("cat", "/etc/atenea/atenea.toml") + "[tts]\nplugin = 'openai'\n"
    machine.write("/etc/atenea/atenea.toml", with_openai)
    said = reader.type(page.next("sudo systemd-run"), code=1)
    assert "  problem  server: the connection to api.openai.com failed (ConnectError)" in said
    assert "OPENAI_API_KEY" not in "".join(said)


def uninstalled(reader: Reader, page: Page) -> None:
    """Configuration, data and user stay, until they too are to go."""
    machine, uninstall = reader.machine, page.next("sudo scripts/setup.sh --uninstall")
    assert reader.type(uninstall) == [
        "service: stopping; its jobs go on afterwards",
        "removed: service and program",
        *KEPT,
    ]
    assert machine.show("LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    places = ["/opt/atenea", "/etc/sysusers.d/atenea.conf", "/etc/tmpfiles.d/atenea.conf", "/usr/local/bin/atenea"]
    places.append("/etc/systemd/system/atenea.service.d")
    assert [place for place in places if machine.succeeds("test", "-e", place)] == []
    assert machine.names("outbox") == ["ana.json", "ana.mp4", "later.json", "later.mp4", "own.json", "own.mp4"]
    assert machine.succeeds("test", "-e", "/etc/atenea/atenea.toml")

    assert reader.type(uninstall, more="--purge") == [
        "removed: service and program",
        *PURGED,
    ]
    places = ["/etc/atenea", "/var/lib/atenea", "/var/cache/atenea"]
    assert [place for place in places if machine.succeeds("test", "-e", place)] == []
    assert not machine.succeeds("getent", "group", "atenea")


# In a container

BOOT = """
cd "$1"
mount -t tmpfs -o mode=755 tmpfs overlay; mkdir overlay/upper overlay/work overlay/root
mount -t overlay -o "lowerdir=/,upperdir=$1/overlay/upper,workdir=$1/overlay/work" overlay overlay/root
cd overlay/root
mount -t proc proc proc
mount -t tmpfs tmpfs proc/driver
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p workspace .old
rm -f usr/bin/nvidia-smi
mount --bind "$2" workspace
pivot_root . .old
cd /
umount -l .old
echo up
exec sleep infinity
"""


class Container:
    """A throw-away machine without systemd, GPU and network, over an overlay of this machine's own files."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        self._enter = ["nsenter", "--target", children.split()[0], "--all", "--"]

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command in it as root; its output."""
        done = subprocess.run([*self._enter, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr


@contextmanager
def container(folder: Path, volume: Path) -> Iterator[Container]:
    """A container with a volume at /workspace."""
    (folder / "overlay").mkdir(parents=True)
    spaces = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"]
    command = ["unshare", *spaces, "bash", "-euc", BOOT, "boot", str(folder), str(volume)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            if (said := process.stdout.readline()) != "up\n":
                pytest.skip(f"no container can be made here: {said.strip()}")
            yield Container(process)
        finally:
            process.kill()


PLACES = "ls -d /opt/atenea /etc/atenea /var/lib/atenea /var/cache/atenea /workspace/atenea/* 2>/dev/null || true"
"""Folders of atenea, and links to them wherever they lead."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_the_documented_commands_in_a_container(
    tmp_path: Path, volume: Path, environment: list[str], python: str
) -> None:
    with Page("docs/setup.md", only="RunPod, and other containers") as page:
        install, run, again = (page.next(begin).text for begin in ("/workspace/", "runuser -u atenea", "/workspace/"))
    before = ["volume: everything lies in /workspace/atenea", f"packages: all there, with Python {python}"]
    made = ["/etc/sysusers.d/atenea.conf: written", "user atenea: made", "/etc/tmpfiles.d/atenea.conf: written"]
    farewell = ["There is no systemd here to run it. This does, until it is told to stop:", f"    {run}"]

    with container(tmp_path / "first", volume) as first:
        first.run("sh", "-c", COPY, "/workspace/atenea-source")
        assert first.run(*environment, "bash", "-euc", install, code=2).splitlines() == [
            *before,
            *made,
            "/etc/atenea/atenea.toml: written",
            "hallo2: left out, for there is no NVIDIA driver; install one (docs/setup.md), then run this again",
            "program: installing with provenance, which takes a while",
            f"program: {ATENEA}, in /opt/atenea/venv",
            *NO_MODELS,
        ]
        first.run("runuser", "-u", "atenea", "--", "sh", "-c", "echo Hello. >/var/lib/atenea/inbox/hello.txt")
        said = first.run(*environment, "bash", "-euc", f"cd /root; {run} --once")
        assert said.splitlines()[:1] == ["/var/lib/atenea/outbox/hello.mp4"], said
        assert first.run("stat", "--format=%U", "/workspace/atenea/lib/outbox/hello.mp4") == "atenea\n"

    with container(tmp_path / "second", volume) as second:
        second.run("useradd", "--system", "earlier")  # so that atenea gets another number than in the first
        kept = ["/etc/atenea/atenea.toml: kept", f"program: {ATENEA}, as before"]
        assert second.run(*environment, "bash", "-euc", again).splitlines() == [*before, *made, *kept, *farewell]
        assert second.run("find", "/workspace/atenea/lib", "!", "-user", "atenea") == ""
        assert json.loads(second.run(*environment, "atenea", "show", "hello", "--json"))["state"] == "done"

        # What a network volume does that keeps no owners.
        second.run("chown", "-R", "earlier", "/workspace/atenea/lib")
        second.run("sh", "-c", "echo '#!/bin/false' >/usr/local/sbin/chown; chmod +x /usr/local/sbin/chown")
        assert second.run(*environment, "bash", "-euc", again).splitlines() == [
            *before,
            "user atenea: not used, since the file system of /var/lib/atenea keeps no owners; root runs it",
            *kept,
            farewell[0],
            f"    {run.removeprefix('runuser -u atenea -- ')}",
        ]

        uninstall = [*environment, "/workspace/atenea-source/scripts/setup.sh", "--uninstall"]
        assert second.run(*uninstall).splitlines() == ["removed: service and program", *KEPT]
        assert second.run("sh", "-c", PLACES).split() == [
            *("/etc/atenea", "/var/cache/atenea", "/var/lib/atenea"),
            *("/workspace/atenea/cache", "/workspace/atenea/etc", "/workspace/atenea/lib"),
        ]
        assert second.run(*uninstall, "--purge").splitlines() == ["removed: service and program", *PURGED]
        assert second.run("sh", "-c", PLACES) == ""


# Mistakes

OLD = """#!/bin/sh
case $2 in
    *print*) echo 3.9 ;;
    *) exit 1 ;;
esac
"""


def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path: Path, volume: Path, python: str) -> None:
    (volume / "old").mkdir()
    (volume / "old" / "python3").write_text(OLD)
    (volume / "old" / "python3").chmod(0o755)
    with container(tmp_path / "container", volume) as here:
        here.run("sh", "-c", f"chmod o+x /root; cp {SETUP} /tmp/setup.sh; mkdir -p /opt/atenea/mine")

        def refused(*words: str, code: int = 1, path: str = PATH) -> str:
            [line] = here.run("env", "-i", f"PATH={path}", *words, code=code).splitlines()
            return line.removeprefix("setup: ")

        assert refused("runuser", "-u", "nobody", "--", "/tmp/setup.sh") == "only root may install; run it with sudo"
        assert refused(SETUP, "--fast", code=2) == "--fast: there is no such option; see --help"
        assert refused(SETUP, "--volume", code=2) == "--volume needs the absolute path of a folder; see --help"
        assert refused(SETUP, "--purge", code=2) == "--purge goes with --uninstall; see --help"
        assert refused("bash", SETUP, path=f"/workspace/old:{PATH}") == (
            f"python3 is Python 3.9; install 3.11 or newer, and name it: PYTHON=/usr/bin/python3.12 {SETUP}"
        )
        assert refused("PYTHON=nopython", SETUP) == (
            f"nopython: there is no such program; name a Python that is there: PYTHON=/usr/bin/python3 {SETUP}"
        )
        assert refused(SETUP, "--volume", "/workspace/atenea") == (
            "/opt/atenea: is there already; move what is in it into /workspace/atenea/opt, remove it, then run this"
            " again"
        )
        assert here.run("ls", "/etc/atenea", code=2) == "ls: cannot access '/etc/atenea': No such file or directory\n"


def test_a_daemon_that_runs_in_a_container_is_not_replaced(tmp_path: Path, volume: Path, python: str) -> None:
    with container(tmp_path / "container", volume) as here:
        here.run("mkdir", "-p", "/var/lib/atenea/state")
        here.run("sh", "-c", "echo 7 >/var/lib/atenea/state/daemon.lock")
        hold = ("flock", "/var/lib/atenea/state/daemon.lock", "env", "-i", f"PATH={PATH}", SETUP, "--uninstall")
        assert here.run(*hold, code=1) == (
            "setup: atenea runs (process 7); end it and run this again: its jobs go on afterwards\n"
        )


def test_help_names_every_option() -> None:
    script = Path(SETUP).read_text()
    said = subprocess.run([SETUP, "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^ +(?:-h \| )?(--[a-z0-9]+)\)", script, re.MULTILINE))
    assert options >= {"--help", "--hallo2", "--models", "--volume", "--uninstall", "--purge"}
    assert [option for option in options - {"--help"} if f"\n  {option} " not in said] == []
