"""A long text through the openai plugin of a running daemon: from a server that fails often, with the daemon killed."""

from __future__ import annotations

import json
import signal
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from plugins.openai_server import SpeechServer, tone
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

from atenea.speech.joining import join
from atenea.speech.sentences import split

KEY = "sk-secret-0123456789"
FAULTS = ("ok", "500", "ok", "cut", "html", "ok", "reset", "429", "ok", "short")
SPEED = 4.0

PARAGRAPH = (
    "In the year {0} the village counted {1} boats, and Dr. Alba wrote: \u201cThere will be more!\u201d She was right. "
    * 12
)
TEXT = "\n\n".join(PARAGRAPH.format(1500 + number, number * 7) for number in range(45))


def configured(new_instance: NewInstance, server: SpeechServer, options: str) -> Instance:
    instance = new_instance(
        "[tts]\nplugin = 'openai'\n"
        f"[tts.openai]\nbase_url = '{server.base_url}'\nparallel = 8\n{options}\n"
        "[render]\nplugin = 'stub'\n[post]\nplugins = []\n",
        OPENAI_API_KEY=KEY,
    )
    keep = f"import shutil\n    shutil.copy(ctx.speech, {str(instance.folder / 'kept.wav')!r})\n    return path"
    instance.plugin("stub", RENDER_STUB.replace("return path", keep))
    return instance


def samples_of(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        return np.frombuffer(file.readframes(-1), "<i2")


def test_fifty_thousand_characters_with_the_daemon_killed_in_the_middle(
    new_instance: NewInstance, tmp_path: Path
) -> None:
    assert len(TEXT) >= 50_000
    pieces = split(TEXT)
    granted: list[str] = []

    def plan(text: str, attempt: int) -> str:
        fault = "ok" if attempt else FAULTS[zlib.crc32(text.encode()) % len(FAULTS)]
        if fault != "ok":
            return fault
        if len(granted) == 15 and not server.released.is_set():
            return "hold"
        granted.append(text)
        return "ok"

    with SpeechServer(plan=plan) as server:
        instance = configured(new_instance, server, f"model = 'tts-1'\nspeed = {SPEED}").start()
        instance.drop("long.txt", TEXT)
        cache = instance.folder / "cache" / "openai"
        wait_until(lambda: len(list(cache.glob("*.sound"))) == 15, "15 pieces in the cache")
        instance.stop(signal.SIGKILL)
        server.released.set()
        instance.start()
        instance.output("long.mp4")

    report = json.loads((instance.outbox / "long.json").read_text())
    said = next(stage for stage in report["stages"] if stage["stage"] == "tts")["report"]
    assert server.paid == dict.fromkeys((piece.spoken for piece in pieces), 1)
    assert len(server.requests) > len(pieces), "the server did fail"
    assert (said["pieces_bought"], said["pieces_from_cache"]) == (len(pieces) - 15, 15)
    assert said["notice"].startswith("The voice is artificial")

    wanted = tmp_path / "wanted.wav"
    join(lambda number: tone(pieces[number].spoken, SPEED), [piece.pause for piece in pieces], wanted)
    assert np.array_equal(samples_of(instance.folder / "kept.wav"), samples_of(wanted))
    texts = [path.read_text() for path in (instance.log, *instance.outbox.glob("*.json"))]
    assert all(KEY not in text for text in texts)


@pytest.mark.parametrize(("model", "api"), [("tts-1", "speech"), ("gpt-realtime-2.1-mini", "realtime")])
def test_the_model_alone_switches_between_the_apis(new_instance: NewInstance, model: str, api: str) -> None:
    with SpeechServer() as server:
        instance = configured(new_instance, server, f"model = '{model}'").start()
        instance.drop("short.txt", "Hello from atenea.")
        instance.output("short.mp4")
    report = json.loads((instance.outbox / "short.json").read_text())
    assert next(stage for stage in report["stages"] if stage["stage"] == "tts")["report"]["api"] == api
    assert np.array_equal(samples_of(instance.folder / "kept.wav")[200:-200], tone("Hello from atenea.")[200:-200])
    assert server.paid == {"Hello from atenea.": 1}


def test_a_lasting_fault_is_answered_in_the_outbox(new_instance: NewInstance) -> None:
    with SpeechServer(plan=lambda text, attempt: "quota") as server:
        instance = configured(new_instance, server, "model = 'tts-1'").start()
        instance.drop("short.txt", "Hello from atenea.")
        error = instance.output("short.error.txt").read_text()
        instance.drop("fast.toml", 'text = "Hello."\n[tts]\nmodel = "gpt-realtime-2.1-mini"\nspeed = 3.0\n')
        refused = instance.output("fast.error.txt").read_text()
    assert "tts plugin 'openai'" in error
    assert f"the account at 127.0.0.1:{server.port} has no credit left: You exceeded your quota; add some" in error
    assert len(server.requests) == 1
    assert "the Realtime API speaks at most 1.5 times as fast; speed is 3" in refused
