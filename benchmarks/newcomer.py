"""What a newcomer waits for on a fresh Debian 12: the first video, the service, a job over scp, a plugin of one's own.

sudo python benchmarks/newcomer.py [--folder DIR] [--json FILE]

A minimal system is made by debootstrap and booted by systemd-nspawn (package systemd-container), on this machine's
network. There an ordinary user with sudo types what README.md and docs/setup.md say, in a clone of this repository;
what is not committed is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import describe, headline

REPOSITORY = Path(__file__).parents[1]
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

SERVER = "systemd,systemd-sysv,dbus,sudo,openssh-server,git,ca-certificates,procps"
"""What the installer of a Debian server leaves behind, and git."""

USER = """
useradd --create-home --shell /bin/bash ana
echo 'ana ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/ana
echo '127.0.0.1 localhost server' "$(hostname)" > /etc/hosts
runuser -u ana -- ssh-keygen -q -t ed25519 -N '' -f /home/ana/.ssh/id_ed25519
runuser -u ana -- cp /home/ana/.ssh/id_ed25519.pub /home/ana/.ssh/authorized_keys
echo 'StrictHostKeyChecking accept-new' > /home/ana/.ssh/config
cp -r /atenea /home/ana/atenea
chown -R ana: /home/ana
"""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PLUGIN = """from atenea import hookimpl


@hookimpl
def post(job, ctx):
    ctx.report["words"] = len((job.text or "").split())
"""


def fetched(name: str) -> str:
    """Wait for a file in the outbox."""
    return f"until scp -q server:/var/lib/atenea/outbox/{name} . 2>/dev/null; do sleep 0.2; done"


STEPS = {
    "the first video, with its packages": "sudo apt-get install -qq -y python3-venv make && cd atenea && make run",
    "the service, with its packages": """
        cd atenea && sudo --preserve-env=PIP_CERT,http_proxy,https_proxy scripts/setup.sh && sudo usermod -aG atenea ana
    """,
    "a job over scp": f"""
        echo 'Good evening.' > ana.txt && scp -q ana.txt server:/var/lib/atenea/inbox/ && {fetched("ana.mp4")}
    """,
    "a plugin of one's own, and a job with it": f"""
        printf '%s' '{PLUGIN}' > words.py
        sudo install -D -m 644 words.py /var/lib/atenea/plugins/words.py && sudo systemctl reload atenea &&
        printf 'text = "one two three"\\npost.plugins = ["words"]\\n' > count.toml &&
        scp -q count.toml server:/var/lib/atenea/inbox/ && {fetched("count.json")} && grep -q '"words": 3' count.json
    """,
    "away with all of it": "cd atenea && sudo scripts/setup.sh --uninstall --purge",
}
"""What the user types, a new login for each."""


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    print(headline(), flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        system = Path(folder) / "debian"
        make_system(system)
        with booted(system) as leader:
            inside(leader, "root", USER)
            seconds = {step: timed(leader, step) for step in STEPS}
    if arguments.json:
        figures = {"machine": describe(), "seconds": seconds}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where the system lies meanwhile")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_system(folder: Path) -> None:
    """A fresh Debian 12 in a folder."""
    command = ["debootstrap", "--variant=minbase", f"--include={SERVER}", "bookworm", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # Where this machine reaches the world, it must be reached from there too.
    for file in ("etc/resolv.conf", CERTIFICATES):
        shutil.copyfile(Path("/") / file, folder / file)


@contextmanager
def booted(system: Path) -> Iterator[int]:
    """The system while it runs, with a clone of this repository in /atenea; its first process."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(system / "atenea")], check=True)
    command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "-D", str(system)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as machine:
        try:
            leader = _leader(machine)
            inside(leader, "root", "systemctl is-system-running --wait || true")
            yield leader
        finally:
            machine.terminate()  # which powers it off


def _leader(machine: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{machine.pid}/task/{machine.pid}/children")
    while machine.poll() is None:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(0.1)
    raise SystemExit("systemd-nspawn could not boot the system")


def inside(leader: int, user: str, typed: str) -> None:
    """Type something in a new login.

    Raises:
        SystemExit: it failed; with what was printed.
    """
    home = "/root" if user == "root" else f"/home/{user}"
    environment = [f"PATH={PATH}", f"HOME={home}", "LANG=C.UTF-8", f"PIP_CERT=/{CERTIFICATES}"]
    environment += [f"{name}={os.environ[name]}" for name in ("http_proxy", "https_proxy") if name in os.environ]
    shell = ["runuser", "-u", user, "--", "env", "-i", *environment, "bash", "-c", f"cd {home} && {{ {typed}\n}}"]
    done = subprocess.run(["nsenter", "-t", str(leader), "-a", *shell], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"failed: {typed}\n{done.stdout}{done.stderr}")


def timed(leader: int, step: str) -> float:
    """Seconds until what the user types has its result."""
    began = time.monotonic()
    inside(leader, "ana", STEPS[step])
    seconds = round(time.monotonic() - began, 1)
    print(f"{seconds:7.1f} s   {step}", flush=True)
    return seconds


if __name__ == "__main__":
    main()
