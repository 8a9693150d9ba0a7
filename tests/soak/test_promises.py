"""What `make soak` says of each promise, and that all of them name tests that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from soak import promises

ROOT = Path(__file__).parents[2]

DOCUMENT = """
| promise | how it is tried | last figures |
|---|---|---|
| Water is `wet`. | `tests/water.py`, by hand | 3 drops, the same as ever |
| Ice floats. | the same | |

| fault | what happens | test |
|---|---|---|
| It rains. | All get wet. | `tests/rain.py` |
| It snows. | All is white. | `tests/water.py`, `tests/snow.py` |
"""

WATER = """
import pytest

@pytest.mark.parametrize("drops", [1000, 2])
def test_drops(record_property, drops):
    record_property("Water", (drops, "drops"))
    record_property("Water", "all of them")

def test_ice(record_property):
    record_property("Ice", (7, "pieces"))
"""

RAIN = """
def test_rain():
    assert not "wet"
"""

SNOW = """
import pytest

def test_snow():
    pytest.skip("it is too warm")
"""

SAID = """
held    Water is wet: 1,002 drops; all of them; 3 tests
held    Ice floats: 7 pieces; 3 tests
BROKEN  It rains: 0 tests
UNTRIED It snows: 3 tests, 1 left out
"""


def test_each_promise_has_a_line(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name, text in (("water", WATER), ("rain", RAIN), ("snow", SNOW)):
        (tmp_path / f"tests/{name}.py").write_text(text)
    (tmp_path / "document.md").write_text(DOCUMENT)
    said = subprocess.run(
        [sys.executable, promises.__file__, "document.md"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.stdout.endswith(SAID)
    assert said.returncode == 1


def test_every_promise_names_tests_that_are_there() -> None:
    found = promises.promises((ROOT / "docs/reliability.md").read_text())
    assert [name for promise in found for name in promise.files if not (ROOT / name).is_file()] == []
    assert len({promise.text for promise in found}) == len(found) > 20
    tried = {name for promise in found for name in promise.files}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests/soak").glob("*.py")} - tried == {
        "tests/soak/promises.py",
        "tests/soak/render_alone.py",
        "tests/soak/test_promises.py",
    }


def test_what_is_counted_is_counted_for_a_promise() -> None:
    found = promises.promises((ROOT / "docs/reliability.md").read_text())
    counted = {
        (name, promise)
        for name in {name for promise in found for name in promise.files}
        for promise in re.findall(r'(?:record_property|tell)\(\s*"([^"]+)"', (ROOT / name).read_text())
    }
    assert len(counted) > 8
    for name, text in counted:
        promised = [promise for promise in found if text in promise.text]
        assert [name in promise.files for promise in promised] == [True], (name, text)
