"""Job files full of mistakes, and made to hurt: each is a job or a refusal that says why."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from faults.mutations import mutated_job_file, mutated_text
from faults.refusals import assert_is_a_refusal, assert_is_an_answer
from system.conftest import new_instance
from system.instance import RENDER_STUB, NewInstance

from atenea.config import load_config
from atenea.errors import MistakesError
from atenea.intake import Intake
from atenea.jobfile import decode_text, parse_job_toml
from atenea.plugin_manager import PluginManager

__all__ = ["new_instance"]

CONFIG = """
[render]
plugin = "stub"
[limits]
wait_for_files_seconds = 0
text_characters = 400
"""

UNKNOWN = (b"fps = 0x19\n", b"when = 2024-02-29T12:00:00Z\n", b"x = {y = [1, inf, \"\\u00e9\"], z.a = '''b'''}\n")
"""Lines of the sample that a real plugin refuses."""


def test_two_thousand_mutated_job_files_are_keys_or_a_refusal() -> None:
    draw = random.Random(20)
    came: Counter[str] = Counter()
    for _ in range(2000):
        try:
            parse_job_toml(mutated_job_file(draw), "a.toml")
            came["keys"] += 1
        except MistakesError as error:
            assert_is_a_refusal(error, "a.toml")
            came["refusals"] += 1
    assert min(came.values()) > 150, came


def test_mutated_texts_are_text_or_a_refusal() -> None:
    draw = random.Random(20)
    came: Counter[str] = Counter()
    for _ in range(2000):
        try:
            assert decode_text(mutated_text(draw), "a.txt").strip()
            came["text"] += 1
        except MistakesError as error:
            assert_is_a_refusal(error, "a.txt")
            came["refusals"] += 1
    assert min(came.values()) > 150, came


def test_mutated_job_files_at_the_intake(tmp_path: Path) -> None:
    file = tmp_path / "atenea.toml"
    file.write_text(f"{CONFIG}[watch]\nsettle_seconds = 0\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/stub.py").write_text("from atenea import *\n" + RENDER_STUB)
    config = load_config(file)
    plugins = PluginManager(config.paths.plugins, cache=tmp_path)
    original = tmp_path / "1/original"
    original.mkdir(parents=True)
    draw = random.Random(20)
    came: Counter[str] = Counter()
    for _ in range(200):
        data = mutated_job_file(draw)
        for unknown in UNKNOWN:
            data = data.replace(unknown, b"")
        (original / "a.toml").write_bytes(data)
        intake = Intake(config, plugins, tmp_path / "1", relative="a.toml", preset=None, previous={})
        try:
            came.update(list(intake.run("1"))[:1])
        except MistakesError as error:
            assert_is_a_refusal(error, "a.toml")
            came["refusals"] += 1
    assert came["refusals"] > 50, came
    assert came["waiting"] > 0, came


MUCH = 900_000


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        (b"a" + b".a" * (MUCH // 2) + b" = 1", "is nested too deeply"),
        (b"text = 'a'\n" + (b"a" + b" . a" * 100 + b" = 1\n") * (MUCH // 400), "is nested too deeply"),
        (b"text = 'a'\nx = {b = 1, 'a'" + b'."b"' * 50 + b" = 1}\n", "is nested too deeply"),
        (b"[a" + b".a" * 900 + b"]\n" + b"x = 1\n" * 1000, "is nested too deeply"),
        (b"".join(b"x%d = 1\n" % n for n in range(MUCH // 10)), "holds more than 10,000 keys and values"),
        (b"[post]\nplugins = [" + b"1," * (MUCH // 2) + b"]", "holds more than 10,000 keys and values"),
        (b"[[a]]\n" * (MUCH // 6), "holds more than 10,000 keys and values"),
        (b"[post]\nplugins = [" + b"'a'," * 65 + b"]", "post.plugins: names 65 plugins; 64 are the most"),
        (b"x" * MUCH + b" = 1", "x" * 117 + "...: unknown key"),
        (b"priority = '" + b"x" * MUCH + b"'", 'priority: should be a valid integer, but is "xxxxxxxxx'),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:20],
)
def test_what_would_take_minutes_to_read_is_refused(data: bytes, mistake: str) -> None:
    with pytest.raises(MistakesError) as caught:
        parse_job_toml(data, "a.toml")
    assert_is_a_refusal(caught.value, "a.toml")
    assert any(said.startswith(mistake) for said in caught.value.mistakes), [
        said[:100] for said in caught.value.mistakes
    ]


def test_of_thousands_of_mistakes_a_hundred_are_told() -> None:
    with pytest.raises(MistakesError) as caught:
        parse_job_toml(b"".join(b"x%d = 1\n" % n for n in range(5000)), "a.toml")
    assert len(caught.value.mistakes) == 101
    assert caught.value.mistakes[100] == "and 4,900 more mistakes"


@pytest.mark.parametrize(
    "text",
    ["a.b.c." * 2000, "\n".join(["One. Two. Three. " * 20] * 20), "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18"],
)
def test_a_text_with_many_full_stops_is_no_deep_key(text: str) -> None:
    assert parse_job_toml(f"text = '''\n{text}'''".encode(), "a.toml").text == text
    assert parse_job_toml(f'text = "{text.splitlines()[0]}"'.encode(), "a.toml").text == text.splitlines()[0]


def test_each_of_forty_hostile_files_is_answered_by_a_daemon(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    instance.plugin("stub", RENDER_STUB)
    draw = random.Random(7)
    names = [f"mutated-{number}.{'toml' if number % 5 else 'txt'}" for number in range(40)]
    for name in names:
        mutate = mutated_job_file if name.endswith("toml") else mutated_text
        instance.drop(name, mutate(draw).replace(b'avatar = "ana.png"\n', b"").replace(b", world", b""))
    instance.atenea("run", "--once", code=None)
    answers = instance.outputs()
    for name in names:
        stem = name.partition(".")[0]
        if f"{stem}.mp4" not in answers:
            assert_is_an_answer((instance.outbox / f"{stem}.error.txt").read_text(), name)
    assert not list(instance.inbox.iterdir())
    assert not [entry for entry in instance.events() if entry["level"] == "critical"]
