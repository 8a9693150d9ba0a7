"""A speech server that is down, slow, cuts its answers or changes its voices, under a running daemon."""

from __future__ import annotations

import json

from plugins.openai_server import SpeechServer
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

__all__ = ["new_instance"]

FIRST = "Twenty boats lay in the harbour that year, and nobody had painted one of them since the war."
LONG = f"{FIRST} " * 9
SECOND = "In the spring a letter came from the capital, and with it a man who had never seen the sea."

RETRY = "[retry]\nattempts = 3\nfirst_seconds = 0.2\nfactor = 2\n"
IMPATIENT = "deadline_seconds = 2.5"
"""So that the plugin itself gives up after a second, and the daemon's retries are seen."""


def speaking(new_instance: NewInstance, server: SpeechServer) -> Instance:
    instance: Instance = new_instance(
        f"[tts]\nplugin = 'openai'\n[tts.openai]\nmodel = 'tts-1'\nbase_url = '{server.base_url}'\n"
        f"[render]\nplugin = 'stub'\n{RETRY}",
        OPENAI_API_KEY="sk-secret-0123456789",
    )
    instance.plugin("stub", RENDER_STUB)
    return instance


def job(text: str, options: str) -> str:
    return f"text = {json.dumps(text)}\n[tts]\n{options}\n"


def told(instance: Instance, name: str) -> list[float]:
    """The waits that were told after each failure of the job's speech."""
    events = instance.events("stage failed; it will be tried again")
    return [event["seconds"] for event in events if event["name"] == name]


def test_a_server_that_is_down_for_a_while(new_instance: NewInstance) -> None:
    with SpeechServer() as server:
        instance = speaking(new_instance, server).start()
        instance.drop("paid.txt", LONG)
        instance.output("paid.mp4")
    paid = server.paid.copy()
    instance.drop("down.toml", job(f"{LONG}\n\n{SECOND}", IMPATIENT))
    wait_until(lambda: told(instance, "down"), "the first failure")
    others_go_on(instance)
    error = instance.output("down.error.txt").read_text()
    assert f"tts plugin 'openai': the connection to 127.0.0.1:{server.port} failed (ConnectError)" in error
    assert "(given up after 3 attempts)" in error
    waits = told(instance, "down")
    assert len(waits) == 2
    assert waits == sorted(waits)
    # One that still waits when the server comes back needs nobody.
    instance.drop("later.toml", job(SECOND.upper(), IMPATIENT))
    wait_until(lambda: told(instance, "later"), "the first failure")
    with SpeechServer(port=server.port) as back:
        instance.output("later.mp4")
        instance.atenea("retry", "down")
        instance.output("down.mp4")
    assert sorted(back.paid) == sorted([SECOND, SECOND.upper()])
    assert server.paid == paid
    assert instance.stop() == 0


def others_go_on(instance: Instance) -> None:
    """Another voice of another server, and one that needs none."""
    with SpeechServer() as another:
        instance.drop("nova.toml", job(SECOND, f"voice = 'nova'\nbase_url = '{another.base_url}'"))
        instance.drop("espeak.toml", job(SECOND, "plugin = 'espeak'"))
        instance.output("nova.mp4")
        instance.output("espeak.mp4")


def test_a_server_that_is_slow_cuts_its_answers_and_loses_a_voice(new_instance: NewInstance) -> None:
    with SpeechServer(slow_seconds=0.2) as server:
        server.script.extend(["cut", "slow", "fastapi"])
        instance = speaking(new_instance, server).start()
        instance.drop("hello.toml", job(f"{LONG}\n\n{SECOND}", "parallel = 1"))
        error = instance.output("hello.error.txt").read_text()
        assert "Voice nobody not found" in error
        assert "attempts)" not in error
        assert len(instance.events("a piece of speech is tried again")) == 1
        assert len(server.requests) == 3
        instance.atenea("retry", "hello")
        instance.output("hello.mp4")
        assert sorted(server.paid.values()) == [1, 1]
        assert not told(instance, "hello")
        instance.stop()
