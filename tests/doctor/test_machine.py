"""Python, packages and systemd."""

from __future__ import annotations

import sys

import pytest

from atenea.doctor.machine import machine_findings, python_finding, systemd_findings
from atenea.doctor.packages import package_findings


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution as pip would, before all others: its metadata, and the names of its files."""

    def install(name, version, *lines, module=""):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        )
        (folder / "RECORD").write_text(f"{module}/__init__.py,,\n" if module else "")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def problems(findings):
    return [(finding.text, finding.cure) for finding in findings if finding.status == "problem"]


def test_this_machine_will_do():
    assert problems(machine_findings()) == []


def test_an_old_python():
    assert python_finding((3, 11)).status == python_finding((3, 14)).status == "ok"
    finding = python_finding((3, 10))
    assert (finding.status, finding.text, finding.cure) == (
        "problem",
        "Python 3.10 is too old: 3.11 is needed",
        "install atenea with a newer Python",
    )


def test_atenea_without_being_installed(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    (finding,) = package_findings()
    assert (finding.status, finding.text, finding.cure) == (
        "note",
        "atenea is used without being installed, so nothing says which packages it needs",
        f"in its folder: {sys.executable} -m pip install -e .",
    )


def test_packages_that_are_missing_or_old(installed):
    installed("atenea", "9", "Requires-Dist: no-such-package>=2", "Requires-Dist: einops[x]>=99; python_version > '3'")
    pip = f"{sys.executable} -m pip install"
    assert problems(package_findings()) == [
        ("the Python package no-such-package is missing", f"{pip} 'no-such-package>=2'"),
        ("einops is 0.8.2, and >=99 is needed", f"{pip} 'einops[x]>=99'"),
    ]


def test_packages_that_are_there_are_counted(installed):
    installed("atenea", "9", "Requires-Dist: numpy>=2", "Requires-Dist: einops", "Requires-Dist: gone; extra == 'big'")
    (finding,) = package_findings()
    assert (finding.status, finding.text) == ("ok", "all 2 are there, and new enough")


def test_packages_of_an_extra(installed):
    only = "Requires-Dist: numpy>=2; extra == 'big'"
    installed("atenea", "9", "Requires-Dist: no-such-package", only, "Requires-Dist: also-missing; extra == 'other'")
    (finding,) = package_findings("big")
    assert (finding.status, finding.text.split()[0]) == ("ok", "numpy")


def test_two_builds_of_opencv(installed):
    assert problems(package_findings("hallo2", {"cv2": "opencv-python-headless"})) == []
    installed("opencv-python", "5.0", module="cv2")
    ((text, cure),) = problems(package_findings("hallo2", {"cv2": "opencv-python-headless"}))
    assert text.startswith("opencv-python and opencv-python-headless are builds of the same package")
    pip = f"{sys.executable} -m pip"
    uninstall = "uninstall -y opencv-python opencv-python-headless"
    assert cure == f"{pip} {uninstall}, then {pip} install 'opencv-python-headless>=5'"


def test_another_build_instead(installed):
    installed("atenea", "9", "Requires-Dist: onnxthing>=1")
    installed("onnxthing-gpu", "0.9", module="onnxthing")
    assert problems(package_findings(modules={"onnxthing": "onnxthing"})) == [
        ("onnxthing-gpu is 0.9, and >=1 is needed", f"{sys.executable} -m pip install 'onnxthing>=1'")
    ]


@pytest.mark.parametrize(
    ("booted", "started", "installed", "status"),
    [
        (False, False, False, []),
        (False, False, True, []),
        (True, False, True, ["ok"]),
        (True, False, False, ["note"]),
        (True, True, False, ["problem"]),
    ],
)
def test_systemd(booted, started, installed, status):
    found = list(systemd_findings(booted=booted, started=started, installed=installed))
    assert [finding.status for finding in found] == status
    assert all(finding.status == "ok" or "'systemd-python>=235'" in finding.cure for finding in found)
