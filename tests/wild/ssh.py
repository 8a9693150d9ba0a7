"""A real sshd on loopback, and what its clients need."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

from system.instance import PATIENCE_SECONDS, wait_until
from wild.tools import free_port, needs, run

_SSHD_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
"""

_SSH_CONFIG = """
Host server
HostName 127.0.0.1
Host *
Port {port}
IdentityFile {folder}/key
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile {folder}/known_hosts
LogLevel ERROR
User {user}
"""

_SFTP = "Subsystem sftp internal-sftp\n"
_SFTP_AT_HOME = 'Subsystem sftp {program}\nForceCommand cd {home} && eval "$SSH_ORIGINAL_COMMAND"\n'
_SFTP_PROGRAM = "/usr/lib/openssh/sftp-server"


class Server:
    """An sshd on loopback, and the options with which clients reach it, as 127.0.0.1 and as `server`.

    Args:
        folder: an empty one, for keys and configurations.
        home: the folder in which sessions start, if it is not the user's own.
    """

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        sshd = needs("sshd", "openssh-server")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # which the Debian package's unit would have made
        self._folder = folder
        port = free_port()
        for key in ("host_key", "key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        sftp = _SFTP_AT_HOME.format(program=needs(_SFTP_PROGRAM, "openssh-sftp-server"), home=home) if home else _SFTP
        (folder / "sshd_config").write_text(_SSHD_CONFIG.format(port=port, folder=folder) + sftp)
        (folder / "ssh_config").write_text(_SSH_CONFIG.format(port=port, folder=folder, user=getpass.getuser()))
        self.options = ("-F", str(folder / "ssh_config"))
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        wait_until(self._answers, "sshd")

    def _answers(self) -> bool:
        return subprocess.run(["ssh", *self.options, "127.0.0.1", "true"], capture_output=True).returncode == 0

    def programs(self) -> Path:
        """A folder with an `ssh` and an `scp` that need no options."""
        folder = self._folder / "programs"
        folder.mkdir()
        for name in ("ssh", "scp"):
            (folder / name).write_text(
                f'#!/bin/sh\nexec {needs(name, "openssh-client")} {" ".join(self.options)} "$@"\n'
            )
            (folder / name).chmod(0o755)
        return folder

    def stop(self) -> None:
        """End it; its sessions end with their clients."""
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)
