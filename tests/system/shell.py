"""A reader of the documentation: types the commands of a page, one after the other, in a checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from snippets import ROOT, SHELLS, Command, snippets
from system.instance import PATIENCE_SECONDS
from system.screen import Screen

_CHECKOUT = "LICENSE Makefile README.md daemon etc examples hallo2 plugins pyproject.toml"
_EMPTY = ("inbox", "outbox")
_OF_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "VIRTUAL_ENV", "PYTHONPATH"}
_OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""What pip would fetch is there already. The second means --no-build-isolation: pip takes it for the opposite."""

_OF_A_READER = {"PATH": os.defpath, "PIP_REQUIRE_VIRTUALENV": "1"}
"""No environment is active, and the machine's own pip refuses, as Debian's does."""

_VARIES = {
    "a time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
    "atenea VERSION": r"\batenea \d+\.\d+\.\d+",
    "Lavf VERSION": r"\bLavf\d+\.\d+\.\d+",
}
"""What is another each time in the output that the pages show."""

_PROGRAM = "#!{python}\nimport runpy, sys\nsys.argv[0] = {name!r}\nrunpy.run_module({name!r}, run_name='__main__')\n"


class Page:
    """The commands of a page, of which a test types every one, in their order.

    A context manager, whose end fails if there is a command left.

    Args:
        name: the page, relative to the repository.
        only: the heading of the section that is meant, where it is not the whole page.
        without: the heading of a section that is not meant.
    """

    def __init__(self, name: str, *, only: str = "", without: str = "") -> None:
        self.snippets = [
            snippet
            for snippet in snippets(*SHELLS)
            if snippet.page == name and only in {"", snippet.section} and snippet.section != without
        ]
        self._left = [command for snippet in self.snippets for command in snippet.commands()]

    def next(self, begin: str) -> Command:
        """The next command, which has to begin like this, so that the test says what it does."""
        assert self._left, f"the page has no more commands; {begin!r} was expected"
        command = self._left.pop(0)
        assert command.text.startswith(begin), f"the page says {command.text!r} where {begin!r} was expected"
        return command

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert kind or not self._left, f"nobody types {self._left}"


def pages(file: Path) -> Iterator[Page]:
    """The pages, and parts of pages, that the tests in a file type."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == Page.__name__:
            parts = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
            yield Page(*map(ast.literal_eval, node.args), **parts)


def without_what_varies(output: str) -> str:
    """Output as it is each time."""
    for name, pattern in _VARIES.items():
        output = re.sub(pattern, name, output)
    return output


class Shell:
    """Where commands are typed."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in environment.items() if name not in _OF_MAKE}

    def type(self, command: Command) -> str:
        """Run a command to its end; what it printed, which is what the page shows, if it shows something."""
        done = subprocess.run(
            ["bash", "-c", command.text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        assert not command.shown or without_what_varies(done.stdout) == without_what_varies(command.shown)
        return done.stdout

    @contextmanager
    def running(self, command: Command) -> Iterator[None]:
        """A command that runs until it is told to stop."""
        process = subprocess.Popen(["bash", "-c", f"exec {command.text}"], cwd=self.folder, env=self.environment)
        try:
            yield
        finally:
            process.terminate()
            try:
                assert process.wait(PATIENCE_SECONDS) == 0
            finally:
                process.kill()

    def on_a_terminal(self, command: Command) -> Screen:
        """A command that somebody answers."""
        return Screen(["bash", "-c", command.text], self.folder, self.environment)


def checkout(folder: Path) -> Shell:
    """A shell in a copy of the repository whose `.venv` is as `make run` leaves it, and where pip has all it may want.

    What the tests have is installed there too, without anything having been fetched; what pip installs goes there.
    """
    folder.mkdir()
    for name in _CHECKOUT.split():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.env"))
        else:
            shutil.copy2(source, folder / name)
    for name in _EMPTY:
        (folder / name).mkdir()
    environment = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    lent = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    lines = [str(folder / "daemon"), *(f"import site; site.addsitedir({place!r})" for place in sorted(lent))]
    (packages / "of-the-tests.pth").write_text("\n".join(lines) + "\n")
    programs = environment / "bin"
    for name in ("atenea", "pip", "pytest"):
        (programs / name).write_text(_PROGRAM.format(python=programs / "python", name=name))
        (programs / name).chmod(0o755)
    (environment / "installed").touch()
    return Shell(folder, {**os.environ, **_OFFLINE, **_OF_A_READER})
