"""The command lines that people are told to install Python packages with."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from atenea.installing import pip

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("daemon", "plugins", "hallo2") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_it_is_the_pip_of_this_python() -> None:
    command = pip("install", "--no-index", "--dry-run", "atenea[hallo2]")
    assert command == f"{sys.executable} -m pip install --no-index --dry-run 'atenea[hallo2]'"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "already satisfied: torch" in done.stdout


def test_whoever_may_not_write_there_is_told_of_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = {"purelib": "/nowhere"}
    monkeypatch.setattr(sysconfig, "get_path", closed.__getitem__)
    assert shlex.split(pip("install", "x"))[:2] == ["sudo", sys.executable]


def test_no_message_names_another_pip() -> None:
    assert len(SOURCES) > 100
    told = [(path.name, text) for path in SOURCES for text in messages(path)]
    assert [(name, text) for name, text in told if re.search(r"\bpip3? +(un)?install\b", text)] == []


def messages(path: Path) -> Iterator[str]:
    """All strings of a module but those that document it."""
    tree = ast.parse(path.read_text())
    documents = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
            yield node.value
