"""The documentation names everything that there is, and its snippets work (a shell's: system/test_snippets)."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import pytest
import tomli
import typer
from snippets import PAGES, ROOT, snippets
from stock import Jobs

import atenea
from atenea import Context, Finding, Job, TimedText, hookspecs, testing
from atenea.cli.app import app
from atenea.cli.commands import register
from atenea.config import load_config
from atenea.context import RESERVED_SUFFIXES
from atenea.doctor.examination import as_json
from atenea.errors import ExitCode
from atenea.finding import Status
from atenea.job import STAGES
from atenea.jobfile import parse_job_toml
from atenea.ledger import Ledger
from atenea.plugin_manager import PluginInfo, PluginManager
from atenea.queue_desk import NotRunning, QueueDesk
from atenea.report import build_report
from atenea.testing import StageError, check_plugin, find_mistakes, run_stage, write_speech
from atenea.views import job_details, job_view

register()

REFERENCE, PLUGINS = (ROOT / "docs" / name for name in ("reference.md", "plugins.md"))


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


def each(language: str) -> Iterator[Any]:
    """The snippets in a language, as parameters of a test."""
    for number, snippet in enumerate(snippets(language), 1):
        yield pytest.param(snippet.text, id=f"{snippet.page}-{number}")


def plugin_snippets() -> dict[str, str]:
    """The plugins on the page about them, by the names that they give themselves; the first has none."""
    found = dict.fromkeys(snippet.text for snippet in snippets("python"))
    named = [(re.match(r'"""(\w+): ', code), code) for code in found if "@hookimpl" in code]
    return {match[1] if match else "words": code for match, code in named}


def test_what_the_code_says_is_up_to_date():
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]
    page = REFERENCE.read_text()
    assert generated(page) == page, "docs/reference.md is not what the code says: make docs"
    assert re.findall("<!-- generated: (.*) -->", page) == ["commands", "options", "configuration", "job file"]


def commands(command=None, name="atenea"):
    """Every command by its name, those of groups too."""
    command = command or typer.main.get_command(app)
    yield name, command
    for below, deeper in getattr(command, "commands", {}).items():
        yield from commands(deeper, f"{name} {below}")


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_help_fits_a_terminal(name, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    help_text = command.get_help(command.make_context(name, [], resilient_parsing=True))
    assert max(map(len, help_text.splitlines())) <= 80
    assert re.findall(r"<.*?>|{.*?}|\bNone\b|\b(?:str|bool|int|float|list|Path)\b", help_text) == []
    cut_off = [line for line in help_text.partition("Commands:")[2].splitlines() if line.endswith("...")]
    assert cut_off == []


@pytest.mark.parametrize("code", ExitCode)
def test_exit_codes(code):
    assert f"\n| {int(code)} |" in section(REFERENCE, "Commands")


@pytest.mark.parametrize("hook", [*STAGES, "check", "diagnose"])
def test_hooks_with_their_exact_arguments(hook):
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"{hook}({arguments})" in rows(PLUGINS)


def test_what_a_hook_gets():
    page = PLUGINS.read_text()
    hidden = {"on_progress", "attachments", "timing_file"}
    given = {field.name for field in fields(Context)} | {name for name in vars(Context) if not name.startswith("_")}
    assert [name for name in given - hidden if f"`ctx.{name}" not in page] == []
    assert [name for name in Job.model_fields if f"`{name}`" not in page] == []


def test_what_is_in_testing():
    described = rows(PLUGINS)
    assert [name for name in testing.__all__ if name not in described] == []
    for kind in (testing.StageResult, testing.JobResult):
        assert re.findall(r"`(\w+)`", described[kind.__name__])[1:] == [field.name for field in fields(kind)]


def test_the_python_api():
    described = rows(REFERENCE)
    engine = ast.parse((ROOT / "hallo2" / "__init__.py").read_text())  # to import it takes torch
    names = next(ast.literal_eval(node.value) for node in engine.body if isinstance(node, ast.Assign))
    assert [name for name in (*atenea.__all__, *names) if name not in described] == []


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
    assert keys_without_row(section(REFERENCE, "Jobs"), [*answer, "starts_in"]) == []


def test_json_of_plugins():
    names = [field.name for field in fields(PluginInfo)] + ["enabled"]
    assert keys_without_row(section(REFERENCE, "Plugins"), names) == []


def test_json_of_the_doctor():
    said = as_json({"machine": [Finding("python", "ok", "it is there")]})
    assert keys_without_row(section(REFERENCE, "What the doctor finds"), [*said, *said["findings"][0]]) == []
    assert all(f"`{status}`" in section(REFERENCE, "What the doctor finds") for status in get_args(Status))


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


@pytest.mark.parametrize("code", list(each("python")))
def test_each_python_snippet_is_run(code):
    """As a plugin or a test, here; the engine's in tests/hallo2/test_documented.py."""
    assert code in plugin_snippets().values() or re.search("^def test_|^from hallo2 ", code, re.MULTILINE)


@pytest.mark.parametrize("name", plugin_snippets())
def test_plugin_snippets_do_their_work(name, tmp_path, speech_server):
    file = write_plugins(tmp_path)[name]
    options = {"remote": {"url": speech_server}, "archive": {"folder": str(tmp_path)}}.get(name, {})
    check_plugin(file, options=options)
    timing = [TimedText(word, place / 2, place / 2 + 0.5) for place, word in enumerate(["one", "two", "three"])]
    for stage in PluginManager(file.parent).load(name).stages:
        made = run_stage(file, stage, folder=tmp_path, text="one two three", options=options, timing=timing)
        if name == "captions":
            assert made.attachments[".srt"].read_text().splitlines() == [
                "1",
                "00:00:00,000 --> 00:00:01,500",
                "one two three",
            ]
        assert made.report == ({"words": 3} if name in {"words", "slow"} else {})
    assert (tmp_path / "test.mp4").exists() == (name == "archive")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves an error's socket open
def test_errors_of_the_remote_snippet(tmp_path, speech_server):
    file = write_plugins(tmp_path)["remote"]
    for answer, transient in (("429", True), ("400", False)):
        with pytest.raises(StageError) as failure:
            run_stage(file, "tts", folder=tmp_path, text=answer, options={"url": speech_server})
        assert failure.value.transient == transient
    with pytest.raises(StageError, match="the server cannot be reached") as failure:
        run_stage(file, "tts", folder=tmp_path, options={"url": "http://127.0.0.1:9/"})
    assert failure.value.transient
    [mistake] = find_mistakes(file, "tts", folder=tmp_path, text="x" * 4001)
    assert "has 4001 characters" in mistake


def test_test_snippets_pass(tmp_path):
    write_plugins(tmp_path)
    codes = [snippet.text for snippet in snippets("python")]
    tests = [code for code in codes if re.search("^def test_", code, re.MULTILINE)]
    for number, code in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(code)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    expected = sum(code.count("\ndef test_") for code in tests)
    assert f"{expected} passed" in done.stdout, done.stdout + done.stderr
    assert expected > 0


@pytest.mark.parametrize("text", list(each("toml")))
def test_toml_snippets(text, tmp_path):
    table = tomli.loads(text)
    if "project" in table:
        template = tomli.loads((ROOT / "examples" / "plugin-template" / "pyproject.toml").read_text())
        assert table["project"].items() <= template["project"].items()
    elif "text" in table:
        check_options(parse_job_toml(text.encode(), "snippet.toml").model_dump())
    else:
        (tmp_path / "atenea.toml").write_text(text)
        check_options(load_config(tmp_path / "atenea.toml").model_dump())


def check_options(tables):
    """What the snippet gives to plugins that come with atenea, they take."""
    plugins = PluginManager(ROOT / "plugins")
    for stage in ("tts", "audio", "render", "post"):
        table = dict(tables[stage])
        chosen, _ = table.pop("plugin", None), table.pop("plugins", None)
        given = table if all(isinstance(value, dict) for value in table.values()) else {chosen: table}
        for name, options in given.items():
            if name in plugins.names:
                plugins.options(plugins.provider(stage, name).name, options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_commands_in_sentences_exist(page):
    # In a table's row more than one command may stand, and JOB and FILE... are no words of theirs.
    for words in re.findall(r"`atenea ([a-z][^`]*)`", page.read_text()):
        check_command(words.replace("[", "").replace("]", "").split())


def check_command(words):
    """The command with its options exists."""
    command = typer.main.get_command(app)
    words = list(words)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands") or not [word for word in words if not word.startswith("-")], words
    known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    given = {word.partition("=")[0].rstrip(",;") for word in words if re.match("--?[a-z]", word)}
    assert given <= known, (command.name, given - known)


def test_the_shipped_configuration_loads():
    assert load_config(ROOT / "etc/atenea.toml").paths.inbox == ROOT / "inbox"


def test_names_in_architecture():
    """Each file and folder that it names is there: at its path, or under its name in a part of the code."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"[\w./-]*\w\.py\b|(?<=`)[\w./-]+/(?=`)", text)) - {"plugins/NAME.py"}
    roots = [ROOT, ROOT / "daemon" / "atenea", ROOT / "daemon" / "atenea" / "inbox", ROOT / "hallo2"]
    made = {"state/jobs/ID/original/", "input/", "work/STAGE/"}  # in an instance
    assert [name for name in sorted(named - made) if not any((root / name).exists() for root in roots)] == []
    assert len(named) > 40
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert target.startswith("https://") or other.exists(), target
        headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in anchors, target


def write_plugins(folder: Path) -> dict[str, Path]:
    """The snippets that are plugins, as files in a plugins folder."""
    plugins = folder / "plugins"
    plugins.mkdir()
    files = {name: plugins / f"{name}.py" for name in plugin_snippets()}
    for name, code in plugin_snippets().items():
        files[name].write_text(code)
    return files


@pytest.fixture
def speech_server(tmp_path: Path) -> Iterator[str]:
    """A server for `remote`: answers with speech, or with the status that the text names."""
    speech = write_speech(tmp_path / "speech.wav").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(int(text) if text.isdigit() else 200)
            self.end_headers()
            self.wfile.write(speech)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/speak"
        server.shutdown()
        thread.join()


def keys_without_row(text: str, keys: Any) -> list[str]:
    """Those of the keys that no table of the text explains."""
    firsts = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    return [key for key in keys if f"`{key}`" not in firsts]
