"""docs/inbox.md tells of each test here, and each of its rows is tested."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "inbox.md"


def test_each_row_has_its_test_and_each_test_its_row() -> None:
    rows = re.findall(r"^\| .* \| .* \| `(test_\w+\.py::test_\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    tests = {
        f"{file.name}::{test}"
        for file in HERE.glob("test_*.py")
        for test in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(rows) == len(set(rows))
    assert set(rows) == {test for test in tests if not test.startswith(Path(__file__).name)}
    assert len(rows) == PAGE.read_text().count("\n| ") - 1  # but for the heading
