"""Presets' folders in the inbox, and the files that presets name."""

from __future__ import annotations

import os
import stat

import pytest
from PIL import Image

from atenea.config import load_config
from atenea.presets import make_folders, unusable_files


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def told(inbox, *presets):
    sentences = []
    make_folders(inbox, presets, sentences.append)
    return sentences


@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o1777, 0o700])
def test_folders_are_for_those_who_may_write_into_the_inbox(inbox, mode):
    if os.geteuid() == 0:
        os.chown(inbox, 1234, 5678)
    inbox.chmod(mode)
    assert told(inbox, "news", "sport") == []
    for name in ("news", "sport"):
        made, wanted = (inbox / name).stat(), inbox.stat()
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (wanted.st_uid, wanted.st_gid, mode)


def test_folders_that_are_there_stay_as_they_are(inbox):
    (inbox / "news").mkdir(mode=0o711)
    (inbox / "news" / "hello.txt").write_text("Hello.")
    assert told(inbox, "news") == []
    assert stat.S_IMODE((inbox / "news").stat().st_mode) == 0o711
    assert (inbox / "news" / "hello.txt").read_text() == "Hello."


def test_what_has_the_name_of_a_preset_is_told_and_left_alone(inbox, tmp_path):
    (inbox / "news").write_text("scp into a folder that was not there")
    (inbox / "sport").symlink_to(tmp_path)
    (tmp_path / "mode").write_text("")
    before = tmp_path.stat()
    assert told(inbox, "news", "sport") == [
        f"{name!r} in the inbox is no folder, so that nothing can be dropped for the preset; move it away"
        for name in ("news", "sport")
    ]
    assert (inbox / "news").is_file() and (inbox / "sport").is_symlink()
    assert tmp_path.stat() == before


def test_an_inbox_that_is_not_there(tmp_path):
    assert told(tmp_path / "inbox", "news") == []


def unusable(tmp_path, presets):
    (tmp_path / "atenea.toml").write_text(presets)
    return list(unusable_files(load_config(tmp_path / "atenea.toml")))


def test_files_of_presets(tmp_path):
    assets = tmp_path / "assets"
    assets.mkdir()
    Image.new("RGB", (64, 64)).save(assets / "ana.png")
    (assets / "broken.png").write_bytes((assets / "ana.png").read_bytes()[:60])
    (assets / "notes.png").write_text("no picture")
    (assets / "link.png").symlink_to("ana.png")
    (assets / "jingle.wav").write_bytes(b"RIFF")
    assert unusable(tmp_path, "[presets.a]\navatar = 'ana.png'\naudio_file = 'jingle.wav'\n[presets.b]\n") == []
    names = ("ben.png", "broken.png", "notes.png", "link.png", "/etc/hostname")
    sentences = unusable(
        tmp_path, "".join(f"[presets.{'pqrst'[n]}]\navatar = '{name}'\n" for n, name in enumerate(names))
    )
    assert sentences[0] == f"presets.p.avatar: 'ben.png' is not in the assets folder; put it into {assets}"
    assert sentences[1].startswith("presets.q.avatar: broken.png is damaged or cut off")
    assert sentences[2] == "presets.r.avatar: notes.png is no picture that can be read: use PNG, JPEG or WebP"
    assert sentences[3].startswith("presets.s.avatar: 'link.png' is no plain file in the assets folder (")
    assert sentences[4].startswith("presets.t.avatar: '/etc/hostname' is no plain file in the assets folder (")
    assert unusable(tmp_path, "[presets.a]\ntext_file = 'speech.txt'\n") == [
        f"presets.a.text_file: 'speech.txt' is not in the assets folder; put it into {assets}"
    ]
