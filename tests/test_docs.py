"""The documentation names everything that there is, and its snippets work."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tomli
import typer
from pydantic import BaseModel
from stock import Jobs

from atenea import Context, Job, hookspecs
from atenea.cli.app import app
from atenea.config import Settings, load_config
from atenea.context import RESERVED_SUFFIXES
from atenea.errors import ExitCode
from atenea.job import STAGES
from atenea.jobfile import JobKeys, parse_job_toml
from atenea.ledger import Ledger
from atenea.plugin_manager import PluginInfo, PluginManager
from atenea.queue_desk import NotRunning, QueueDesk
from atenea.report import build_report
from atenea.views import job_details, job_view

ROOT = Path(__file__).parents[1]
README, REFERENCE, PLUGINS = (ROOT / name for name in ("README.md", "docs/reference.md", "docs/plugins.md"))
PAGES = (README, REFERENCE, PLUGINS)


def rows(page: Path) -> dict[str, str]:
    """The rows of all tables, by what stands in code in the first column; several names make several entries."""
    found: dict[str, str] = {}
    for line in page.read_text().splitlines():
        if line.startswith("| "):
            first = line.split("|")[1]
            found |= {name: found.get(name, "") + line for name in re.findall(r"`([^`]+)`", first)}
    return found


def section(page: Path, title: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    level, text = re.search(rf"^(#+) {title}$(.*)", page.read_text(), re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", text, flags=re.MULTILINE)[0]


def snippets(language: str) -> Iterator[Any]:
    for page in PAGES:
        found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        for number, text in enumerate(found, 1):
            yield pytest.param(text, id=f"{page.stem}-{number}")


def configuration_keys() -> Iterator[tuple[str, str]]:
    """Every key with its default, as TOML writes it."""
    for table, field in Settings.model_fields.items():
        if table == "presets":
            yield "presets.NAME", "none"
            continue
        model = field.annotation
        assert issubclass(model, BaseModel)
        for key, value in model.model_fields.items():
            default = value.get_default(call_default_factory=True)
            shown = "number of cores" if value.default_factory else json.dumps(default, default=str).strip('"')
            yield f"{table}.{key}", shown


@pytest.mark.parametrize(("key", "default"), list(configuration_keys()))
def test_configuration_keys(key, default):
    cells = [cell.strip().strip("`") for cell in rows(REFERENCE)[key].split("|")]
    assert cells[3] == default


def test_no_key_that_there_is_not():
    documented = {name for name in rows(REFERENCE) if re.match(r"[a-z]+\.[a-z_A-Z]+$", name)}
    assert documented == {key for key, _ in configuration_keys()}


@pytest.mark.parametrize("key", JobKeys.model_fields)
def test_job_file_keys(key):
    assert f"`{key}`" in section(REFERENCE, "Job files")


def test_commands_and_options():
    commands = section(REFERENCE, "Commands")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"`atenea {name}" in commands
        for option in (option for parameter in command.params for option in parameter.opts):
            assert not option.startswith("--") or re.search(rf"{option}\b", commands), f"{name} {option}"


@pytest.mark.parametrize("code", ExitCode)
def test_exit_codes(code):
    assert f"\n| {int(code)} |" in section(REFERENCE, "Commands")


@pytest.mark.parametrize("hook", [*STAGES, "check"])
def test_hooks_with_their_exact_arguments(hook):
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"{hook}({arguments})" in rows(PLUGINS)


def test_what_a_hook_gets():
    page = PLUGINS.read_text()
    hidden = {"on_progress", "attachments", "timing_file"}
    given = {field.name for field in fields(Context)} | {name for name in vars(Context) if not name.startswith("_")}
    assert [name for name in given - hidden if f"`ctx.{name}" not in page] == []
    assert [name for name in Job.model_fields if f"`{name}`" not in page] == []


def test_json_of_jobs(db: Ledger, jobs: Jobs, tmp_path):
    row = jobs.planned()
    jobs.begin(row)
    details = job_details(row, None, db, "outbox", "folder")
    assert details["steps"] and details["attempts"]
    assert keys_without_row(section(REFERENCE, "Jobs"), job_view(row, None)) == []
    shown = section(REFERENCE, "One job")
    assert keys_without_row(shown, details.keys() - job_view(row, None).keys()) == []
    assert [key for part in ("steps", "attempts") for key in details[part][0] if f"`{key}`" not in shown] == []
    answer = QueueDesk(load_config(ROOT / "etc/atenea.toml"), db, NotRunning()).jobs()
    assert keys_without_row(section(REFERENCE, "Jobs"), answer) == []


def test_json_of_plugins():
    names = [field.name for field in fields(PluginInfo)] + ["enabled"]
    assert keys_without_row(section(REFERENCE, "Plugins"), names) == []


def test_the_report(db: Ledger, jobs: Jobs, tmp_path):
    video = tmp_path / "video.mp4"
    video.touch()
    row = jobs.to_publish()
    assert keys_without_row(section(REFERENCE, "The report"), build_report(row, db.steps(row.id), video)) == []


def test_requests_of_the_control_socket(db: Ledger):
    desk = QueueDesk(load_config(ROOT / "etc/atenea.toml"), db, NotRunning())
    text = section(REFERENCE, "The control socket")
    for name, answer in desk._commands.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert [argument for argument in inspect.signature(answer).parameters if f"`{argument}`" not in row] == []


@pytest.mark.parametrize("suffix", sorted(RESERVED_SUFFIXES))
def test_the_daemons_own_files_in_the_outbox(suffix):
    assert f"| `NAME{suffix}` |" in section(REFERENCE, "The outbox")


def test_options_of_plugins_that_come_with_it():
    text = section(REFERENCE, "Plugins that come with it")
    plugins = PluginManager(ROOT / "plugins")
    described = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert described
    for name, row in described.items():
        assert [option for option in plugins.load(name).options.model_fields if f"`{option}`" not in row] == []


@pytest.mark.parametrize("code", list(snippets("python")))
def test_python_snippets_are_plugins(code, tmp_path):
    (tmp_path / "snippet.py").write_text(code)
    for path in (tmp_path, tmp_path / "snippet.py"):
        path.chmod(0o755)
    assert PluginManager(tmp_path).load("snippet").stages


@pytest.mark.parametrize("text", list(snippets("toml")))
def test_toml_snippets(text, tmp_path):
    table = tomli.loads(text)
    if "text" in table:
        parse_job_toml(text.encode(), "snippet.toml")
    elif "project" not in table:
        (tmp_path / "atenea.toml").write_text(text)
        load_config(tmp_path / "atenea.toml")


def test_the_shipped_configuration_loads():
    assert load_config(ROOT / "etc/atenea.toml").paths.inbox == ROOT / "inbox"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert target.startswith("https://") or other.exists(), target
        headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def keys_without_row(text: str, keys: Any) -> list[str]:
    """Those of the keys that no table of the text explains."""
    firsts = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    return [key for key in keys if f"`{key}`" not in firsts]
