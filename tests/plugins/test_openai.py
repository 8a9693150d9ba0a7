"""The openai plugin with the real SDK, against a real server on this machine that misbehaves."""

from __future__ import annotations

import json
import re
import threading
import time
import wave
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import structlog
import tomli
from plugins.openai_server import STALL_SECONDS, SpeechServer, tone
from pydantic import ValidationError

from atenea import PermanentError, TransientError
from atenea.errors import Cancelled
from atenea.mistakes import Invalid, validated
from atenea.speech.joining import join
from atenea.speech.sentences import split
from atenea.timing import read_timing

KEY = "sk-test-0123456789"
STORY = "Ana walked along the shore and counted the boats. There were a great many of them that morning.\n\n"
LONG = "".join(STORY.replace("boats", f"{number} boats") for number in range(24))


@pytest.fixture(scope="module")
def plugin(load_plugin):
    return load_plugin("openai")


@pytest.fixture
def server():
    with SpeechServer() as running:
        yield running


@pytest.fixture
def speak(plugin, make_context, make_job, server, monkeypatch):
    """Speak a text by the Speech API, or by the Realtime API when the model says so."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(plugin, "_FIRST_DELAY", 0.01)

    def run(text, **options):
        values = {"model": "tts-1", "base_url": server.base_url, "stall_seconds": 5.0, **options}
        run.ctx = make_context(plugin, on_progress=run.on_progress, **values)
        path = plugin.tts(make_job(text), run.ctx)
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
            return np.frombuffer(file.readframes(-1), "<i2")

    run.on_progress = lambda fraction, text: None
    return run


def spoken(text):
    """What is sent to the server, piece by piece."""
    return [piece.spoken for piece in split(text) if piece.is_speech]


def expected(text, tmp_path, speed=1.0):
    """The samples that must come out, to the last one."""
    pieces = [piece for piece in split(text) if piece.is_speech]
    path = tmp_path / "expected.wav"
    join(lambda number: tone(pieces[number].spoken, speed), [piece.pause for piece in pieces], path)
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(-1), "<i2")


@pytest.mark.parametrize("form", ["wav", "pcm", "flac"])
def test_a_long_text_becomes_one_sound_of_all_its_pieces(speak, server, tmp_path, form):
    server.plan = lambda text, attempt: "slow"
    samples = speak(LONG, format=form, parallel=3)
    assert np.array_equal(samples, expected(LONG, tmp_path))
    assert server.paid == dict.fromkeys(spoken(LONG), 1)
    assert 1 < server.most_open <= 3


@pytest.mark.parametrize("form", ["mp3", "aac", "opus"])
def test_lossy_formats_are_decoded(speak, tmp_path, form):
    samples = speak(STORY, format=form)
    assert abs(len(samples) - len(expected(STORY, tmp_path))) < 24_000 * 0.2


@pytest.mark.parametrize("size", ["ffffffff", "00000000"])
def test_a_server_that_streams_wav_does_not_know_its_size(speak, server, tmp_path, size):
    server.plan = lambda text, attempt: f"size {size}"
    assert np.array_equal(speak(STORY), expected(STORY, tmp_path))
    assert len(server.requests) == 1


def test_the_request_says_what_the_options_say(speak, server):
    speak("Hello there.", voice="voice_1234", instructions="Softly.", speed=2.0, model="gpt-4o-mini-tts")
    assert server.requests == [
        {
            "input": "Hello there.",
            "model": "gpt-4o-mini-tts",
            "voice": {"id": "voice_1234"},
            "instructions": "Softly.",
            "speed": 2.0,
            "response_format": "wav",
        }
    ]
    assert server.authorizations == {f"Bearer {KEY}"}


def test_timing_and_report(speak, server):
    text = "One sentence here.\n\n" + STORY * 8
    samples = speak(text, voice="nova")
    timing = read_timing(speak.ctx.timing_file)
    assert [piece.text for piece in timing] == spoken(text)
    assert timing[0].start == 0
    assert timing[-1].end == pytest.approx(len(samples) / 24_000)
    assert all(0.07 < later.start - earlier.end < 0.81 for earlier, later in pairwise(timing))
    report = speak.ctx.report
    assert report["notice"].startswith("The voice is artificial")
    assert {key: report[key] for key in ("api", "server", "model", "voice", "mismatches")} == {
        "api": "speech",
        "server": f"127.0.0.1:{server.port}",
        "model": "tts-1",
        "voice": "nova",
        "mismatches": [],
    }
    assert (report["pieces_bought"], report["pieces_from_cache"]) == (len(set(spoken(text))), 0)
    assert report["characters"] == report["characters_bought"] == sum(map(len, spoken(text)))
    assert report["seconds"] == pytest.approx(len(samples) / 24_000, abs=0.001)


def test_a_hundred_thousand_characters(speak, server, tmp_path):
    text = "".join(STORY.replace("Ana", f"Ana {number}") for number in range(100_000 // len(STORY) + 1))
    assert len(text) >= 100_000
    samples = speak(text, speed=4.0, format="pcm", parallel=8)
    assert np.array_equal(samples, expected(text, tmp_path, 4.0))
    assert server.paid == dict.fromkeys(spoken(text), 1)


def test_nothing_is_paid_for_twice(speak, server):
    first = speak(LONG)
    assert np.array_equal(speak(LONG), first)
    assert set(server.paid.values()) == {1}
    assert (speak.ctx.report["pieces_bought"], speak.ctx.report["characters_bought"]) == (0, 0)
    speak(LONG, voice="other")
    assert set(server.paid.values()) == {2}


@pytest.mark.parametrize(
    "options",
    [{"model": "tts-1-hd"}, {"voice": "nova"}, {"instructions": "Softly."}, {"speed": 1.2}, {"format": "pcm"},
     {"api": "realtime"}],
)  # fmt: skip
def test_whatever_shapes_the_sound_makes_another_piece(speak, server, options):
    speak("Hello there.")
    speak("Hello there.", **options)
    assert server.paid["Hello there."] == 2
    speak("Hello  there. ", **options, parallel=1, on_mismatch="warn", deadline_seconds=60.0)
    assert server.paid["Hello there."] == 2


def test_another_server_makes_another_piece(speak, server):
    speak("Hello there.")
    with SpeechServer() as other:
        speak("Hello there.", base_url=other.base_url)
        assert (server.paid, other.paid) == ({"Hello there.": 1}, {"Hello there.": 1})


def test_a_spoiled_piece_is_bought_again(speak, server):
    first = speak(LONG)
    entry = min(speak.ctx.cache.glob("*.sound"))
    data = bytearray(entry.read_bytes())
    data[-100] ^= 1
    entry.write_bytes(data)
    assert np.array_equal(speak(LONG), first)
    assert sorted(server.paid.values())[-2:] == [1, 2]
    assert speak.ctx.report["pieces_bought"] == 1


def test_the_same_piece_twice_in_a_text_is_bought_once(speak, server):
    paragraph = STORY.strip() * 6 + "\n\n"
    samples = speak(paragraph * 4)
    assert server.paid == {paragraph.strip(): 1}
    assert len(samples) > 4 * len(tone(paragraph.strip()))


def test_two_jobs_at_once_pay_once(plugin, make_context, make_job, server, monkeypatch):
    """Each thread stands for a process: flock separates open files, not processes."""
    server.plan = lambda text, attempt: "slow"
    texts = []

    def run(stage):
        ctx = make_context(plugin, stage=stage, model="tts-1", base_url=server.base_url, on_progress=note)
        texts.append(plugin.tts(make_job(LONG), ctx).read_bytes())

    heard = set()
    note = lambda fraction, text: heard.add(text)  # noqa: E731
    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts[0] == texts[1]
    assert set(server.paid.values()) == {1}
    assert "waiting for another job that speaks the same piece" in heard


@pytest.mark.parametrize(
    "behaviour",
    ["429", "500", "503", "reset", "cut", "html", "html-as-audio", "json", "empty", "short", "silent"],
)
def test_what_passes_is_tried_again(speak, server, tmp_path, behaviour):
    server.script.extend([behaviour] * 2)
    assert np.array_equal(speak(LONG, parallel=2), expected(LONG, tmp_path))
    assert server.paid == dict.fromkeys(spoken(LONG), 1)
    assert len(server.requests) == len(server.paid) + 2


@pytest.mark.parametrize("behaviour", ["stall-body", "stall-headers"])
def test_a_server_that_hangs_is_left(speak, server, behaviour):
    server.script.append(behaviour)
    started = time.monotonic()
    speak("Hello there.", stall_seconds=1.0)
    assert 1.0 <= time.monotonic() - started < STALL_SECONDS
    assert len(server.requests) == 2


def test_slow_is_not_stalled(speak, server):
    server.slow_seconds = 0.2
    server.script.append("slow")
    speak("Hello there.", stall_seconds=1.0)  # eight times 0.2 seconds
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        (
            "401",
            "refuses 'tts-1' with status 401: Incorrect API key provided; put a valid OPENAI_API_KEY into atenea.env",
        ),
        ("501", "status 501: Unsupported method; it lacks this interface; set api or model"),
        ("403", "status 403: Country not supported; let the key's project use this model"),
        ("400", "status 400: Invalid value for voice; look at model, voice and format"),
        ("404", "status 404: The model does not exist; set model or base_url"),
        ("quota", "has no credit left: You exceeded your quota; add some, then run: atenea retry"),
        ("fastapi", "status 400: Voice nobody not found; look at model, voice and format"),
        ("redirect", "sends us elsewhere (status 307): set base_url to the right address"),
    ],
)
def test_what_stays_is_said_at_once(speak, server, behaviour, sentence):
    server.plan = lambda text, attempt: behaviour
    with pytest.raises(PermanentError) as caught:
        speak("Hello there.")
    assert sentence in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("500", "answers with status 500: The server had an error"),
        ("html", "sent text/html instead of sound; is base_url right?"),
        ("cut", "failed (RemoteProtocolError)"),
        ("short", "sent only 0.1 seconds of sound for"),
    ],
)
def test_patience_ends(speak, server, behaviour, sentence):
    server.plan = lambda text, attempt: behaviour
    with pytest.raises(TransientError) as caught:
        speak(STORY)
    assert sentence in str(caught.value)
    assert len(server.requests) == 6


def test_retry_after_is_honoured(speak, server):
    server.retry_after = "1"
    server.script.append("429")
    started = time.monotonic()
    speak("Hello there.")
    assert time.monotonic() - started >= 1.0


def test_a_long_retry_after_goes_to_the_daemon(speak, server):
    server.retry_after = "300"
    server.script.append("429")
    with pytest.raises(TransientError, match="asked too often") as caught:
        speak("Hello there.")
    assert caught.value.retry_after == 300
    assert len(server.requests) == 1


def test_the_deadline_ends_everything(speak, server):
    server.plan = lambda text, attempt: "stall-headers"
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"not done within 0\.5 seconds"):
        speak("Hello there.", deadline_seconds=0.5)
    assert time.monotonic() - started < STALL_SECONDS


def test_nobody_listens(speak, server):
    with pytest.raises(TransientError, match=r"the connection to 127\.0\.0\.1:9 failed \(ConnectError\)"):
        speak("Hello there.", base_url="http://127.0.0.1:9/v1")


def test_after_a_failure_what_runs_is_kept_and_nothing_new_begins(speak, server):
    first, second, *others = spoken(LONG)
    assert others
    server.plan = lambda text, attempt: {first: "400", second: "slow"}.get(text, "ok")
    with pytest.raises(PermanentError, match="Invalid value"):
        speak(LONG, parallel=2)
    assert server.paid == {second: 1}
    server.plan = lambda text, attempt: "ok"
    speak(LONG)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("model", ["tts-1", "gpt-realtime-2.1-mini"])
def test_cancelling_does_not_wait_for_the_server(speak, server, model):
    server.plan = lambda text, attempt: "stall" if "realtime" in model else "stall-body"
    cancelled = []

    def cancel(fraction, text):
        if server.begun.is_set():
            cancelled.append(time.monotonic())
            raise Cancelled

    speak.on_progress = cancel
    with pytest.raises(Cancelled):
        speak(LONG, model=model, stall_seconds=30.0)
    assert time.monotonic() - cancelled[0] < STALL_SECONDS / 2
    assert list(speak.ctx.cache.glob("*.lock")) == []


def test_progress_comes_from_the_main_thread_and_grows(speak):
    told = []
    speak.on_progress = lambda fraction, text: told.append((fraction, text, threading.current_thread()))
    speak(LONG)
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {thread for _, _, thread in told} == {threading.main_thread()}
    assert any(text.startswith("piece ") for _, text, _ in told)


@pytest.mark.parametrize("behaviour", ["401", "echo"])
def test_the_key_appears_nowhere(speak, server, caplog, capfd, behaviour):
    caplog.set_level("INFO")
    server.plan = lambda text, attempt: behaviour
    with structlog.testing.capture_logs() as logs, pytest.raises(PermanentError) as caught:
        speak("Hello there.")
    assert caught.value.__cause__ is None
    for text in (str(caught.value), str(logs), caplog.text, *capfd.readouterr(), repr(speak.ctx.report)):
        assert KEY not in text


# The Realtime API.

REALTIME = "gpt-realtime-2.1-mini"


def test_one_line_switches_to_the_realtime_api(speak, server, tmp_path):
    samples = speak(LONG, model=REALTIME, parallel=2, instructions="Softly.", speed=1.5)
    assert np.array_equal(samples, expected(LONG, tmp_path, 1.5))
    assert server.paid == dict.fromkeys(spoken(LONG), 1)
    assert server.connections == 2 < len(spoken(LONG))
    assert server.sessions[0]["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "voice": "marin",
        "speed": 1.5,
    }
    assert server.sessions[0]["reasoning"] == {"effort": "minimal"}
    request = server.requests[0]
    assert (request["conversation"], request["output_modalities"]) == ("none", ["audio"])
    assert "word for word" in request["instructions"]
    assert request["instructions"].endswith("How to speak: Softly.")
    assert speak.ctx.report["api"] == "realtime"


def test_a_compatible_server_names_its_model_as_it_likes(speak, server):
    speak("Hello there.", model="local-voice", api="realtime")
    assert server.connections == 1
    assert "reasoning" not in server.sessions[0]
    speak("Hello there.", model="gpt-realtime-like", api="speech")
    assert server.connections == 1
    assert server.paid["Hello there."] == 2


@pytest.mark.parametrize(
    ("behaviour", "connections"),
    [("drop", 2), ("server-error", 2), ("429", 2), ("cut", 2), ("text-only", 1), ("rate-limits", 1)],
)
def test_realtime_what_passes_is_tried_again(speak, server, tmp_path, behaviour, connections):
    server.script.append(behaviour)
    assert np.array_equal(speak(STORY, model=REALTIME), expected(STORY, tmp_path))
    assert server.connections == connections


def test_a_limit_that_is_used_up_holds_all_lanes(speak, server):
    server.script.append("rate-limits")
    started = time.monotonic()
    speak(LONG, model=REALTIME, parallel=1)
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("behaviour", ["expired", "expired-close"])
def test_an_expired_session_is_replaced_at_once(speak, server, tmp_path, behaviour, plugin, monkeypatch):
    monkeypatch.setattr(plugin, "_FIRST_DELAY", 30.0)  # it must not count as a failure
    server.script.extend(["ok", behaviour])
    assert np.array_equal(speak(LONG, model=REALTIME, parallel=1), expected(LONG, tmp_path))
    assert server.connections == 2
    assert server.paid == dict.fromkeys(spoken(LONG), 1)


def test_a_session_that_will_expire_begins_no_piece(speak, server):
    server.session_seconds = 60
    speak(LONG, model=REALTIME, parallel=1)
    assert server.connections == len(spoken(LONG))


def test_a_stalled_session_is_left(speak, server):
    server.script.append("stall")
    speak("Hello there.", model=REALTIME, stall_seconds=0.3)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("invalid", "refuses 'gpt-realtime-2.1-mini': Invalid voice; look at model and voice"),
        ("quota", "has no credit left: You exceeded your quota"),
        ("content-filter", "its content filter acted"),
    ],
)
def test_realtime_what_stays_is_said_at_once(speak, server, behaviour, sentence):
    server.plan = lambda text, attempt: behaviour
    with pytest.raises(PermanentError) as caught:
        speak("Hello there.", model=REALTIME)
    assert sentence in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "sentence"), [("401", "atenea.env"), ("404", "set model"), ("quota", "no credit")])
def test_realtime_handshakes_that_are_refused(speak, server, status, sentence):
    server.handshakes.append(status)
    with pytest.raises(PermanentError, match=sentence):
        speak("Hello there.", model=REALTIME)
    assert server.connections == 0


@pytest.mark.parametrize("status", ["429", "503"])
def test_realtime_handshakes_that_are_put_off(speak, server, status):
    server.handshakes.append(status)
    speak("Hello there.", model=REALTIME)
    assert server.connections == 1


def test_a_piece_in_other_words_is_spoken_again(speak, server, tmp_path):
    server.script.extend(["reword", "reword"])
    assert np.array_equal(speak(STORY, model=REALTIME), expected(STORY, tmp_path))
    assert len(server.requests) == 3
    assert speak.ctx.report["pieces_spoken_again"] == 2
    assert speak.ctx.report["mismatches"] == []


def test_other_words_for_good_fail_the_job_or_are_kept(speak, server):
    bad = spoken(LONG)[1]
    server.plan = lambda text, attempt: "reword" if text == bad else "ok"
    with pytest.raises(PermanentError) as caught:
        speak(LONG, model=REALTIME)
    assert "does not read piece 2 word for word" in str(caught.value)
    assert "'sure here you \u2026' was added" in str(caught.value)
    assert 'set on_mismatch = "warn" to keep it' in str(caught.value)
    assert server.paid[bad] == 3

    speak(LONG, model=REALTIME, on_mismatch="warn")
    assert server.paid == {text: 6 if text == bad else 1 for text in spoken(LONG)}
    (mismatch,) = speak.ctx.report["mismatches"]
    assert (mismatch["piece"], mismatch["differences"]) == (2, ["'sure here you \u2026' was added"])

    speak(LONG, model=REALTIME, on_mismatch="warn")
    assert server.paid[bad] == 6, "a kept piece is not bought again"
    assert len(speak.ctx.report["mismatches"]) == 1
    server.plan = lambda text, attempt: "ok"
    speak(LONG, model=REALTIME)
    assert server.paid[bad] == 7, "a piece that was kept in spite of its words is no answer to 'fail'"
    assert speak.ctx.report["mismatches"] == []


# At intake.


@pytest.fixture
def check(plugin, make_context, make_job, monkeypatch):
    def run(day=date(2026, 11, 1), text="Hello.", **options):
        monkeypatch.setattr(plugin, "_today", lambda: day)
        return plugin.check(make_job(text), make_context(plugin, **options))

    return run


def test_a_retired_model_is_refused_from_its_day_on(check):
    assert check(date(2027, 1, 5), model="gpt-4o-mini-tts") == []
    (sentence,) = check(date(2027, 1, 6), model="gpt-4o-mini-tts")
    assert sentence == (
        "OpenAI retired gpt-4o-mini-tts on 2027-01-06: set model = 'gpt-realtime-2.1-mini', "
        "or base_url to a server that still has it"
    )
    assert check(date(2027, 1, 6), model="tts-1", base_url="http://127.0.0.1:8880/v1") == []
    assert check(date(2030, 1, 1)) == [], "the default goes on"


def test_a_retired_model_is_refused_late_too(plugin, make_context, make_job, monkeypatch):
    monkeypatch.setattr(plugin, "_today", lambda: date(2027, 2, 1))
    with pytest.raises(PermanentError, match="OpenAI retired tts-1-hd on 2027-01-06"):
        plugin.tts(make_job("Hello."), make_context(plugin, model="tts-1-hd"))


def test_what_the_realtime_api_cannot_do_is_refused(check):
    assert check(speed=2.0) == ["the Realtime API speaks at most 1.5 times as fast; speed is 2"]
    (sentence,) = check(voice="stella")
    assert sentence.startswith("the Realtime API has no voice 'stella'; it has alloy, ash, ")


def test_voices_that_the_realtime_api_lacks_have_stand_ins(plugin, check):
    assert check(voice="nova") == []
    spoken = [plugin.Options(voice=voice).spoken_voice for voice in ("nova", "onyx", "fable", "marin", "voice_1")]
    assert spoken == ["coral", "ash", "ballad", "marin", "voice_1"]
    assert set(spoken[:4]) <= set(plugin._REALTIME_VOICES)
    assert plugin.Options(voice="nova", model="tts-1").spoken_voice == "nova"
    assert plugin.Options(voice="nova", base_url="https://speech.example/v1").spoken_voice == "nova"


def test_what_else_the_realtime_api_cannot_do_is_refused(check):
    assert check(voice="voice_1234") == []
    assert check(text=" \u2026 \n\n *** ") == ["the text has no words to speak"]


@pytest.mark.parametrize(
    "address",
    ["ftp://127.0.0.1/", "127.0.0.1:80", "http://", "http://[::1", "http://a:99999/v1", "https://127.0.0.1:0/v1"],
)
def test_an_address_must_be_one(plugin, address):
    with pytest.raises(Invalid, match=r"tts\.base_url: is no address of a server"):
        validated(plugin.Options, {"base_url": address}, "tts")


@pytest.mark.parametrize("address", ["https://me:hunter2@127.0.0.1/v1", "https://127.0.0.1/v1?key=hunter2"])
def test_an_address_holds_no_secret(plugin, address):
    with pytest.raises(Invalid, match="a key belongs into OPENAI_API_KEY") as caught:
        validated(plugin.Options, {"base_url": address}, "tts")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("[::1]", True),
        ("localhost", True),
        ("kokoro", True),
        ("voice.local", True),
        ("192.168.1.5", True),
        ("10.0.0.8", True),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("8.8.8.8", False),
        ("api.openai.com", False),
    ],
)
def test_http_only_nearby(plugin, host, near):
    assert plugin.Options(base_url=f"https://{host}:8000/v1/").base_url == f"https://{host}:8000/v1"
    if near:
        plugin.Options(base_url=f"http://{host}:8000/v1")
    else:
        with pytest.raises(ValidationError, match="use https"):
            plugin.Options(base_url=f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("https://api.openai.com/v1", KEY),
        ("https://eu.api.openai.com/v1", KEY),
        ("http://127.0.0.1:8000/v1", KEY),
        ("http://192.168.1.5:8000/v1", ""),
        ("https://api.openai.com.evil/v1", ""),
    ],
)
def test_the_key_goes_to_openai_and_this_machine_alone(plugin, monkeypatch, address, sent):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert plugin._key(plugin.Options(base_url=address)) == sent


def test_openai_needs_a_key_and_others_do_not(plugin, speak, server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(PermanentError, match="there is no OPENAI_API_KEY: put it into atenea.env"):
        plugin._key(plugin.Options())
    speak("Hello there.")
    assert server.authorizations == {"Bearer none"}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u20ac")
    with pytest.raises(PermanentError, match="has characters in it that no key has") as caught:
        plugin._key(plugin.Options())
    assert "sk-" not in str(caught.value)


# The documentation.

SPEECH = Path(__file__).parents[2] / "docs" / "speech.md"


def test_every_option_is_documented_with_its_default(plugin):
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", SPEECH.read_text(), re.MULTILINE))
    shown = {name: json.dumps(field.default) for name, field in plugin.Options.model_fields.items()}
    shown |= {name: text.removesuffix(".0") for name, text in shown.items() if name.endswith("_seconds")}
    assert {name: rows[name] for name in shown} == {**shown, "instructions": "none"}


@pytest.mark.parametrize("snippet", re.findall(r"```toml\n(.*?)```", SPEECH.read_text(), re.DOTALL))
def test_the_examples_are_valid(plugin, snippet):
    validated(plugin.Options, tomli.loads(snippet)["tts"]["openai"], "tts")
