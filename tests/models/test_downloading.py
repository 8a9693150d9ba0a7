"""Fetching the bundle: what the hub may do to it, and what it may find on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from models.hub_server import Failure, FakeHub

from atenea.errors import AteneaError, ExitCode
from atenea.models import hub as hub_module
from atenea.models import missing_files, verify
from atenea.models.downloading import carry_out, plan
from atenea.models.manifest import COMMIT, REPOSITORY, wanted_paths

NET = "hallo2/net.pth"
CONFIG = "sd-vae-ft-mse/config.json"
VOCALS = "audio_separator/Kim_Vocal_2.onnx"


@pytest.fixture(autouse=True)
def asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that is asked in this process; nothing is waited for."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    addresses = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.setattr(hub_module, "WAITS_SECONDS", (0.0, 0.0))
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()


def download(folder: Path, *, vocals: bool = False) -> list[tuple[str, int]]:
    """Fetch what lacks; what was told about it."""
    told: list[tuple[str, int]] = []
    planned = plan(folder, vocals=vocals, on_bytes=lambda _what, _count: None)
    carry_out(planned, lambda what, count: told.append((what, count)))
    return told


def refused(folder: Path) -> str:
    """Why nothing can be fetched."""
    with pytest.raises(AteneaError) as caught:
        download(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            Failure(404),
            f"answered 404 when asked for {REPOSITORY}; it does not have that: unset HF_ENDPOINT, or name a mirror "
            "that has it",
        ),
        (
            Failure(500),
            f"answered 500 when asked for {REPOSITORY}; run it again later, and it goes on where it is",
        ),
        (Failure(200, content=b"<html>"), "does not answer like the Hugging Face hub; check HF_ENDPOINT"),
        (Failure(200, content=b'[{"type": "file"}]'), "does not answer like the Hugging Face hub; check HF_ENDPOINT"),
        (
            Failure(200, content=b"[]"),
            f"has no {NET} in {REPOSITORY} at {COMMIT[:7]}; take another mirror",
        ),
    ],
)
def test_answers_that_are_of_no_use(hub: FakeHub, tmp_path: Path, failure: Failure, sentence: str) -> None:
    hub.failures["api"] = [failure]
    assert refused(tmp_path) == f"{hub.endpoint}: {sentence}"


def test_nothing_is_fetched_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(tmp_path) == "HF_HUB_OFFLINE forbids to fetch models; unset it, and run it again"


@pytest.mark.parametrize("endpoint", ["hf-mirror.com", "http://[", "http://host:port", ""])
def test_an_endpoint_that_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(AteneaError) as caught:
        download(tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"HF_ENDPOINT: {endpoint} is no address such as https://huggingface.co; mend it or unset it"
    )


def test_attempts_end_when_none_brings_anything(hub: FakeHub, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(500), Failure(), Failure(503)]
    assert refused(filled) == (
        f"{hub.endpoint}: it answered 503 while {NET} was fetched; run it again later, and it goes on where it is"
    )
    assert len(hub.fetched()) == 3


def test_attempts_go_on_while_each_brings_something(hub: FakeHub, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(after=50_000) for _ in range(5)]
    told = download(filled)
    assert hub.fetched() == [(NET, None)] + [(NET, f"bytes={start}-") for start in range(50_000, 300_000, 50_000)]
    assert sum(count for _, count in told) == 300_000
    assert (filled / NET).read_bytes() == hub.files[NET]


def test_a_file_that_is_refused_itself(hub: FakeHub, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(403)]
    assert refused(filled) == (
        f"{hub.endpoint}: answered 403 when asked for {NET}; it wants to know who you are: set HF_TOKEN to a token of "
        "yours"
    )


def test_a_server_that_knows_no_ranges(hub: FakeHub, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(after=100_000), Failure(after=-1, ignore_range=True)]
    told = download(filled)
    assert hub.fetched() == [(NET, None), (NET, "bytes=100000-")]
    assert sum(count for _, count in told) == 300_000
    assert (filled / NET).read_bytes() == hub.files[NET]


@pytest.mark.parametrize("path", [NET, CONFIG])
@pytest.mark.parametrize("more", [0, 1_000_000])
def test_content_that_is_not_what_was_stated(hub: FakeHub, filled: Path, path: str, more: int) -> None:
    (filled / path).unlink()
    hub.failures[path] = [Failure(content=bytes(len(hub.files[path]) + more))]
    assert refused(filled) == (
        f"{path}: what {hub.endpoint} sent is not what it states, and was removed; run it again, or take another mirror"
    )
    assert list((filled / path).parent.glob(f"*{Path(path).name}*")) == []
    download(filled)
    assert (filled / path).read_bytes() == hub.files[path]


def test_a_commit_never_changes(hub: FakeHub, filled: Path) -> None:
    download(filled)
    (filled / NET).unlink()
    hub.files[NET] = b"another"
    assert refused(filled) == (
        f"{NET}: {hub.endpoint} states another content than models.lock.json records; take another mirror, or remove "
        "models.lock.json if you trust this one"
    )


def test_what_an_earlier_commit_left_is_compared_anew(hub: FakeHub, filled: Path) -> None:
    download(filled)
    lock = filled / "models.lock.json"
    lock.write_text(lock.read_text().replace(COMMIT, "0" * 40))
    hub.files[CONFIG] = b"{}"
    stale = filled / "sd-vae-ft-mse/.config.json.0123456789abcdef.part"
    stale.write_bytes(b"of an earlier commit")
    download(filled)
    assert hub.fetched() == [(CONFIG, None)]
    assert not stale.exists()
    assert verify(filled).commit == COMMIT
    assert verify(filled).faults == ()


def test_missing_files(hub: FakeHub, filled: Path, tmp_path: Path) -> None:
    assert missing_files(filled) == ()
    assert missing_files(filled, vocals=True) == (VOCALS,)
    (filled / NET).unlink()
    assert missing_files(filled) == (NET,)
    assert missing_files(tmp_path / "nothing") == wanted_paths()


def test_vocals_count_once_they_were_fetched(hub: FakeHub, filled: Path) -> None:
    download(filled, vocals=True)
    (filled / VOCALS).unlink()
    assert verify(filled).faults == (f"{VOCALS}: is missing",)
    download(filled)
    assert verify(filled).faults == ()


def test_a_file_that_nothing_vouches_for(hub: FakeHub, filled: Path) -> None:
    download(filled)
    (filled / VOCALS).parent.mkdir()
    (filled / VOCALS).write_bytes(hub.files[VOCALS])
    assert verify(filled).faults == (f"{VOCALS}: nothing vouches for it: it is not in models.lock.json",)
    download(filled)
    assert verify(filled).faults == ()
    assert hub.fetched() == []


def test_a_file_that_cannot_be_read(hub: FakeHub, filled: Path) -> None:
    download(filled)
    (filled / NET).unlink()
    (filled / NET).mkdir()
    assert verify(filled).faults == (f"{NET}: cannot be read: Is a directory",)


def test_links_to_files_elsewhere_count(hub: FakeHub, filled: Path, tmp_path: Path) -> None:
    (filled / NET).rename(tmp_path / "net.pth")
    (filled / NET).symlink_to(tmp_path / "net.pth")
    download(filled)
    assert hub.fetched() == []
    found = {file.path: file.size for file in verify(filled).files}
    assert found == {path: len(hub.files[path]) for path in wanted_paths()}


def test_what_was_read_is_told(hub: FakeHub, filled: Path) -> None:
    told: list[tuple[str, int]] = []
    verify(filled, lambda what, count: told.append((what, count)))
    sizes = {f"checking {path}": len(hub.files[path]) for path in wanted_paths()}
    assert {what: sum(count for other, count in told if other == what) for what, _ in told} == sizes


def test_the_small_files_are_compared_as_git_does(hub: FakeHub) -> None:
    info = hub.info(CONFIG)
    data = hub.files[CONFIG]
    assert info["oid"] == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert "lfs" not in info
