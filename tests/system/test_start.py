"""What a command imports: what it does not need, it must not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from stock import Jobs
from system.instance import Instance, NewInstance

from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER

HEAVY = {"typer", "pydantic", "rich", "watchdog", "asyncio", "structlog", "statistics", "av", "numpy", "pluggy"}
"""Packages and modules that take longer to import than to ask for the jobs."""

_IMPORTED = """
import sys
from atenea.cli import main
sys.argv = ["atenea", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def imported(instance: Instance, *arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *arguments, "--config", str(instance.folder / "atenea.toml")],
        capture_output=True,
        text=True,
        check=True,
        cwd=instance.folder,
    )
    return done.stdout, set(done.stderr.split())


@pytest.fixture
def instance(new_instance: NewInstance) -> Instance:
    made: Instance = new_instance()
    state = made.folder / "state"
    state.mkdir()
    ledger = Ledger(state / LEDGER)
    Jobs(ledger).failed("hello")
    ledger.close()
    return made


@pytest.mark.parametrize("options", [(), ("--json",), ("--limit", "3"), ("--limit=1", "--json")])
def test_jobs_imports_nothing_that_takes_longer_than_the_answer(instance: Instance, options: tuple[str, ...]) -> None:
    alone, found = imported(instance, "jobs", *options)
    assert "hello" in alone
    assert found & HEAVY == set()
    assert "atenea.ledger" in found


def test_with_a_daemon_jobs_does_not_even_open_the_ledger(instance: Instance) -> None:
    instance.start()
    answer, found = imported(instance, "jobs")
    assert "hello" in answer
    assert found & {*HEAVY, "atenea.ledger"} == set()
    instance.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", "-1"), "Invalid value for '--limit': -1 is not from 0 to 1,000,000"),
        (("--limit", "many"), "Invalid value for '--limit'"),
        (("--limit",), "Invalid value for '--limit'"),
        (("--jsn",), "No such option"),
        (("--js",), "No such option"),
        (("more",), "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_explained_as_that_of_any_command(
    instance: Instance, options: tuple[str, ...], words: str
) -> None:
    told = instance.atenea("jobs", *options, code=2).stderr
    assert words in told
    assert told.startswith("atenea: ")
    assert told.endswith("; see atenea jobs --help\n")


def test_a_configuration_with_a_mistake_elsewhere_keeps_nobody_from_asking(instance: Instance) -> None:
    with (instance.folder / "atenea.toml").open("a") as config:
        config.write("\n[nonsense]\nx = 1\n")
    assert "hello" in instance.atenea("jobs").stdout


@pytest.mark.parametrize("paths", ["[paths]\nstate = 1", "paths = 3", "[paths"])
def test_a_mistake_about_the_places_is_told(instance: Instance, paths: str) -> None:
    instance.configure(f"{paths}\n")
    (instance.folder / "atenea.toml").write_text(f"{paths}\n")
    told = instance.atenea("jobs", code=2).stderr
    assert told.startswith(f"atenea: {instance.folder}/atenea.toml: ")
