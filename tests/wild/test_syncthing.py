"""Two real Syncthing instances: the people's side, where jobs are dropped, and the side of the daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system.instance import PATIENCE_SECONDS, Instance, wait_until
from wild.tools import assert_once, avatar, free_port, needs, picture, rests, run, said, sha256, taken, visible, wild

_OFF = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "crashReportingEnabled": "false",
    "startBrowser": "false",
    "reconnectionIntervalS": "1",
}


class Syncthing:
    """One instance, with a home of its own, that talks to nobody but its peer."""

    def __init__(self, home: Path, folders: dict[str, Path]) -> None:
        self._home = home
        self._folders = folders
        self._program = needs("syncthing", "syncthing")
        run(self._program, "generate", "--no-default-folder", "--home", home)
        self._file = home / "config.xml"
        self._config = ET.parse(self._file)
        self.id = self._config.findall("device")[0].attrib["id"]
        self.address, self._gui = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, peer: Syncthing) -> None:
        """Share the folders with the peer."""
        root = self._config.getroot()
        assert root is not None
        options = root.find("options")
        gui = root.find("gui")
        assert options is not None
        assert gui is not None
        for option in [*options.findall("listenAddress"), *(o for o in options if o.tag in _OFF)]:
            options.remove(option)
        for name, value in {**_OFF, "listenAddress": f"tcp://{self.address}"}.items():
            ET.SubElement(options, name).text = value
        gui.find("address").text = self._gui  # type: ignore[union-attr]
        gui.find("apikey").text = "key"  # type: ignore[union-attr]
        device = ET.SubElement(root, "device", id=peer.id, name="peer", compression="never")
        ET.SubElement(device, "address").text = f"tcp://{peer.address}"
        for name, path in self._folders.items():
            self._share(root, name, path, peer)
        self._config.write(self._file)
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", "--no-browser", "--home", str(self._home)],
                stdout=log,
                stderr=log,
                env={**os.environ, "STNOUPGRADE": "1"},
            )

    def _share(self, root: ET.Element, name: str, path: Path, peer: Syncthing) -> None:
        watching = {"rescanIntervalS": "2", "fsWatcherEnabled": "true", "fsWatcherDelayS": "1"}
        folder = ET.SubElement(root, "folder", id=name, label=name, path=str(path), type="sendreceive", **watching)
        ET.SubElement(folder, "maxConflicts").text = "10"
        for device in (self.id, peer.id):
            ET.SubElement(folder, "device", id=device)

    def ask(self, path: str, *, post: bool = False) -> Any:
        """The answer of the REST interface."""
        headers = {"X-API-Key": "key"}
        request = urllib.request.Request(f"http://{self._gui}/rest/{path}", headers=headers, data=b"" if post else None)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def is_connected(self) -> bool:
        """Whether it talks to its peer."""
        try:
            connections = self.ask("system/connections")["connections"].values()
        except OSError:
            return False
        return any(connection["connected"] for connection in connections)

    def scan(self, folder: str) -> None:
        """Look for changes now."""
        self.ask(f"db/scan?folder={folder}", post=True)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)


class Pair:
    """The daemon's side is `instance`; the people's is `inbox` and `outbox`."""

    def __init__(self, folder: Path, instance: Instance) -> None:
        self.instance = instance
        self.inbox, self.outbox = folder / "inbox", folder / "outbox"
        for path in (self.inbox, self.outbox):
            path.mkdir()
        self.people = Syncthing(folder / "people", {"inbox": self.inbox, "outbox": self.outbox})
        self.server = Syncthing(folder / "server", {"inbox": instance.inbox, "outbox": instance.outbox})
        self.people.start(self.server)
        self.server.start(self.people)

    def wait(self) -> None:
        wait_until(lambda: self.people.is_connected() and self.server.is_connected(), "the two to meet")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    needs("syncthing", "syncthing")
    instance = wild(lambda config: Instance(tmp_path_factory.mktemp("instance"), config))
    pair = Pair(tmp_path_factory.mktemp("syncthing"), instance)
    try:
        instance.start()
        pair.wait()
        yield pair
    finally:
        pair.people.stop()
        pair.server.stop()
        if instance.process:
            instance.stop(9)


def test_a_job_here_becomes_a_video_there_and_comes_back(pair: Pair) -> None:
    """Taking the files removes them on the people's side too."""
    (pair.inbox / "ana.png").write_bytes(picture())
    (pair.inbox / "ana.txt").write_text("Hello.")
    pair.people.scan("inbox")
    assert_once(pair.instance, "ana", "Hello.")
    assert avatar(pair.instance, "ana") == sha256(picture())
    wait_until((pair.outbox / "ana.mp4").exists, "the video to come back")
    assert (pair.outbox / "ana.mp4").read_bytes() == (pair.instance.outbox / "ana.mp4").read_bytes()
    wait_until(lambda: visible(pair.inbox) == [], "the files to go here")


def test_a_deletion_before_it_is_taken(pair: Pair) -> None:
    """A file that its owner deletes while it waits for another one is no job."""
    folder = pair.inbox / "regretted"
    folder.mkdir()
    (folder / "job.toml").write_text('text = "Oh, no."\navatar = "never.png"\n')
    pair.people.scan("inbox")
    wait_until((pair.instance.inbox / "regretted" / "job.toml").exists, "the folder to arrive")
    shutil.rmtree(folder)
    pair.people.scan("inbox")
    wait_until(lambda: visible(pair.instance.inbox) == [], "the folder to go")
    assert taken(pair.instance, "regretted") == 0


def test_a_conflict(pair: Pair) -> None:
    """Both sides wrote the same name while they were apart: one is the job, the other is left alone."""
    pair.instance.stop()
    pair.people.ask(f"system/pause?device={pair.server.id}", post=True)
    wait_until(lambda: not pair.server.is_connected(), "the two to part")
    texts = {pair.inbox: "From the people.", pair.instance.inbox: "From the other side."}
    for folder, text in texts.items():
        (folder / "both.txt").write_text(text)
    pair.people.scan("inbox")
    pair.server.scan("inbox")
    pair.people.ask(f"system/resume?device={pair.server.id}", post=True)
    [conflict] = wait_until(lambda: list(pair.instance.inbox.glob("both.sync-conflict-*.txt")), "the conflict")
    winner = ({*texts.values()} - {conflict.read_text()}).pop()
    both = pair.instance.inbox / "both.txt"  # which is not there while the winner takes the loser's place
    wait_until(lambda: both.exists() and both.read_text() == winner, "the winner")
    pair.instance.start()
    assert said(pair.instance, "both") == winner
    assert rests(pair.instance.inbox) == []
    assert visible(pair.instance.inbox) == [conflict.name]
    wait_until(lambda: visible(pair.inbox) == [conflict.name], "the job to go here, and the conflict to stay")
