"""The wheel: what is in it, and that it works in an environment of its own, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in (REPOSITORY / "plugins").glob("*.py") if not path.name.startswith("_"))


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=REPOSITORY)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_code_and_the_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        meta = next(name for name in names if name.endswith(".dist-info/METADATA")).partition("/")[0]
        assert "[pytest11]\natenea = pytest_atenea" in archive.read(f"{meta}/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in names} == {"atenea", "hallo2", "pytest_atenea.py", meta}
    assert f"{meta}/licenses/LICENSE" in names
    assert "atenea/py.typed" in names
    plugins = sorted(name for name in names if name.startswith("atenea/plugins/") and not name.endswith("__init__.py"))
    assert plugins == [f"atenea/plugins/{name}.py" for name in SHIPPED]
    assert [name for name in names if name.startswith(("atenea/", "hallo2/")) and "__pycache__" in name] == []
    assert [name for name in names if Path(name).name.startswith("test_")] == []


def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "instance"
    folder.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", str(environment), "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", str(wheel), cwd=tmp_path)
    [packages] = environment.glob("lib/python*/site-packages")
    atenea = str(environment / "bin" / "atenea")

    listed = json.loads(run(atenea, "plugins", "--json", cwd=folder).stdout)["plugins"]
    assert [plugin["name"] for plugin in listed] == SHIPPED
    assert {plugin["refused"] for plugin in listed} == {None}
    assert [plugin["source"] for plugin in listed] == [str(packages / f"atenea/plugins/{name}.py") for name in SHIPPED]
    assert os.listdir(folder) == []

    (folder / "inbox").mkdir()
    (folder / "inbox" / "hello.txt").write_text("Hello from a wheel.")
    video = folder / "outbox" / "hello.mp4"
    assert run(atenea, "run", "--once", cwd=folder).stdout == f"{video}\n"
    assert sorted(os.listdir(folder / "outbox")) == ["hello.json", "hello.mp4"]
    report = json.loads((folder / "outbox" / "hello.json").read_text())
    assert [stage["plugin"] for stage in report["stages"]] == ["espeak", "wav", "preview"]
    assert report["video"]["bytes"] == video.stat().st_size

    # The engine is there too; what it stands on is an extra.
    code = "import importlib.util; print(importlib.util.find_spec('hallo2').origin)"
    found = run(str(environment / "bin" / "python"), "-c", code, cwd=folder).stdout
    assert found == f"{packages / 'hallo2' / '__init__.py'}\n"
