"""A plugin that tries what a service should not be able to do, and reports the errno of each; 0 where it could.

As a program of its own it prints the same.
"""

import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atenea import hookimpl

OPEN_FOLDERS = ("/etc/open", "/usr/open", "/opt/open", "/etc/atenea/open")
"""Folders that everybody may write."""

_libc = ctypes.CDLL(None, use_errno=True)
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_NEW_USER = 0x10000000


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _in_child(name: str, *arguments: Any) -> None:
    """Call in a child, which it may change for good."""
    child = os.fork()
    if child == 0:
        result = getattr(_libc, name)(*arguments)
        os._exit(ctypes.get_errno() if result < 0 else 0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, name)


def _write(folder: str) -> None:
    path = Path(folder, f"probe-{os.getpid()}")
    path.touch()
    path.unlink()


def _set_user_id(folder: str) -> None:
    path = Path(folder, "program")
    path.touch()
    path.chmod(0o4755)


def _map() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _errno(attempt: Callable[[], Any]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def probes(own: str) -> dict[str, Callable[[], Any]]:
    """What is tried; `own` is a folder that may be written."""
    return {
        **{f"write {folder}": lambda folder=folder: _write(folder) for folder in OPEN_FOLDERS},
        "read /home": Path("/home/ana/note").read_text,
        "look at process 1": Path("/proc/1/comm").read_text,
        "open a device": lambda: os.close(os.open("/dev/some-device", os.O_WRONLY)),
        "be traced": lambda: _in_child("ptrace", 0, 0, 0, 0),
        "mount": lambda: _call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "load a module": lambda: _call("syscall", _FINIT_MODULE[os.uname().machine], 0, b"", 0),
        "new user namespace": lambda: _in_child("unshare", _NEW_USER),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "set the user id of a file": lambda: _set_user_id(own),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
        "other personality": lambda: _in_child("personality", 0x0040000),
        "write its own folder": lambda: _write(own),
        "internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        "memory that is written and run": _map,
    }


@hookimpl
def post(job: Any, ctx: Any) -> None:
    """Report what came of each."""
    ctx.report.update({name: _errno(attempt) for name, attempt in probes(str(ctx.workdir)).items()})


if __name__ == "__main__":
    json.dump({name: _errno(attempt) for name, attempt in probes("/tmp").items()}, sys.stdout)
