"""Copies of files that a job names may be all that is left of them: they outlive whatever cuts the copying off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atenea.named_files import NamedFile, NamedFiles, Place


class Crash(BaseException):
    """The process ends here."""


def copied(folder: Path) -> dict[str, Path]:
    """What an attempt at intake does."""
    files = NamedFiles({}, at_once=True, most_bytes=1000, copies=folder / "input")
    wanted = [NamedFile("avatar", "face.png", (Place(folder),))]
    files.look(wanted)
    assert (files.mistakes, files.waiting) == ([], {})
    return files.copy(wanted)


@pytest.mark.parametrize("at", range(5))
def test_copies_outlive_an_attempt_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (tmp_path / "face.png").write_bytes(b"picture")
    copied(tmp_path)
    (tmp_path / "face.png").unlink()
    left = at

    def crashing(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return function(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for owner, name in ((shutil, "rmtree"), (Path, "rename")):
            patch.setattr(owner, name, crashing(getattr(owner, name)))
        try:
            copied(tmp_path)
        except Crash:
            assert left < 0
    assert copied(tmp_path)["avatar"].read_bytes() == b"picture"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input"]
