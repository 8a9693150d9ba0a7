"""What the tests of every part share."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from stock import Jobs

from atenea.ledger import Ledger

# Read when Triton is imported, and torch imports it when it likes: without a GPU its kernels are interpreted.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"

# There is a worker for each core already. Processes that tests start take it over.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("atenea", deadline=None)  # a busy machine is no failure
settings.load_profile("atenea")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own configuration and secrets reaches a test."""
    for name in ("ATENEA_CONFIG", "OPENAI_API_KEY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(60)
    assert [thread for thread in left if thread.is_alive()] == []


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger on disk."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
def jobs(db: Ledger) -> Jobs:
    """Jobs in the ledger `db`."""
    return Jobs(db)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on another file system than `tmp_path`."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode == 0:
        yield folder
        subprocess.run(["umount", "-l", folder], check=True)
        return
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    folder = shared / f"atenea-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-r", folder], check=True)
