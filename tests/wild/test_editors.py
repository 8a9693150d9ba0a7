"""How real editors save a file that lies in the inbox: each time it is saved and then left alone, it is one job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from system.instance import Instance, wait_until
from wild.tools import assert_once, needs, run, said, taken, visible

CTRL_O, CTRL_X, ESCAPE = "C-o", "C-x", "Escape"


@pytest.fixture
def inbox(patient: Instance) -> Instance:
    """Files settle later than these programs take between two saves."""
    return patient


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._tmux = (needs("tmux", "tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null")
        run(*self._tmux, "new-session", "-d", "-x", "80", "-y", "24", *command, env={**os.environ, "TERM": "xterm"})

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names for those that are no characters."""
        run(*self._tmux, "send-keys", *keys)

    def expect(self, text: str) -> None:
        """Wait for a text on the screen."""
        wait_until(lambda: text in run(*self._tmux, "capture-pane", "-p"), f"{text!r} on the screen")

    def close(self) -> None:
        run(*self._tmux, "kill-server", code=None)


def test_vim(inbox: Instance, tmp_path: Path) -> None:
    """While it is open its swap file is left alone; what is saved later is a job of its own."""
    needs("vim.tiny", "vim-tiny")
    path = inbox.inbox / "vim.txt"
    vim = Terminal(tmp_path, "vim.tiny", "-N", "-u", "NONE", str(path))
    try:
        vim.expect("~")
        vim.type("iHello.", ESCAPE)
        vim.type(":w", "Enter")
        assert said(inbox, "vim") == "Hello."
        assert (inbox.inbox / ".vim.txt.swp").exists()
        vim.type("oAnd more.", ESCAPE)
        vim.type(":wq!", "Enter")
        assert said(inbox, "vim-2") == "Hello.\nAnd more."
    finally:
        vim.close()
    wait_until(lambda: visible(inbox.inbox, "vim") == [], "vim to tidy up")


def test_vim_saves_twice(inbox: Instance) -> None:
    """With a backup: the old file is renamed, the new one has another inode."""
    needs("vim.tiny", "vim-tiny")
    path = inbox.inbox / "vim-twice.txt"
    commands = "a\nHello.\n.\nw\na\nAnd more.\n.\nwq\n"
    run(
        "vim.tiny", "-e", "-s", "-N", "-u", "NONE", "--cmd", "set backup backupcopy=no backupskip=", path, text=commands
    )
    assert said(inbox, "vim-twice") == "Hello.\nAnd more."
    assert taken(inbox, "vim-twice") == 1
    assert visible(inbox.inbox, "vim-twice") == ["vim-twice.txt~"]


def test_nano(inbox: Instance, tmp_path: Path) -> None:
    needs("nano", "nano")
    nano = Terminal(tmp_path, "nano", "--ignorercfiles", "--backup", str(inbox.inbox / "nano.txt"))
    try:
        nano.expect("^G Help")
        nano.type("Hello.")
        nano.type(CTRL_O)
        nano.expect("File Name to Write")
        nano.type("Enter")
        nano.type(CTRL_X)
        assert said(inbox, "nano") == "Hello."
    finally:
        nano.close()
    assert_once(inbox, "nano", "Hello.")


def test_emacs(inbox: Instance) -> None:
    """With its lock (a dangling link), its backup, and two saves in a row."""
    needs("emacs", "emacs-nox")
    path = inbox.inbox / "emacs.txt"
    lisp = (
        f'(progn (find-file "{path}") (insert "Hello.") (save-buffer)'
        ' (insert "\\nAnd more.") (set-buffer-modified-p t) (save-buffer))'
    )
    run("emacs", "--batch", "--quick", "--eval", "(setq make-backup-files t backup-by-copying nil)", "--eval", lisp)
    assert_once(inbox, "emacs", "Hello.\nAnd more.")


def test_sed_in_place(inbox: Instance) -> None:
    """It writes a new file under a name of its own, and renames it."""
    run("sh", "-c", 'echo "Hello, world." >sed.txt; sed -i.bak s/world/atenea/ sed.txt', cwd=inbox.inbox)
    assert said(inbox, "sed") == "Hello, atenea."
    assert taken(inbox, "sed") == 1
    assert visible(inbox.inbox, "sed") == ["sed.txt.bak"]


def test_a_touch_before_it_is_taken(inbox: Instance) -> None:
    run("sh", "-c", "echo Hello. >touch.txt; touch touch.txt", cwd=inbox.inbox)
    assert_once(inbox, "touch", "Hello.")
