"""What the openai plugin finds out from a server, without buying anything."""

from __future__ import annotations

from datetime import date

import pytest
from plugins.openai_server import SpeechServer

KEY = "sk-secret-0123456789"
MODELS = [{"id": "kokoro", "object": "model"}, {"id": "gpt-realtime-2.1-mini"}]


@pytest.fixture(scope="module")
def plugin(load_plugin):
    return load_plugin("openai")


@pytest.fixture
def diagnose(plugin, make_context, monkeypatch):
    """What is found, each as status, text and cure, by its name."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(server=None, **options):
        if server:
            options = {"base_url": server.base_url, "model": "kokoro", **options}
        found = plugin.diagnose(make_context(plugin, **options))
        host = f"127.0.0.1:{server.port}" if server else "-"
        return {f.check: (f.status, f.text.replace(host, "HOST"), f.cure) for f in found}

    return run


def test_a_server_that_has_all(diagnose):
    with SpeechServer(models=MODELS, key=KEY) as server:
        assert diagnose(server) == {
            "server": ("ok", "HOST answers and takes the key", ""),
            "model": ("ok", "HOST has kokoro", ""),
        }
    assert server.authorizations == {f"Bearer {KEY}"}
    assert server.requests == []


def test_a_server_that_tells_of_no_models(diagnose, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with SpeechServer() as server:
        assert diagnose(server) == {"server": ("ok", "HOST answers", "")}


def test_a_key_that_is_missing_or_none(diagnose, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e9")
    key = "copy it anew"
    assert diagnose() == {"key": ("problem", "OPENAI_API_KEY has characters in it that no key has", key)}
    monkeypatch.delenv("OPENAI_API_KEY")
    cure = "put it into atenea.env beside the configuration, or set base_url"
    assert diagnose() == {"key": ("problem", "there is no OPENAI_API_KEY", cure)}


def test_a_key_that_is_refused(diagnose):
    with SpeechServer(key="another") as server:
        said = "HOST refuses 'kokoro' with status 401: Incorrect API key provided: Bearer [secret]"
        assert diagnose(server) == {"server": ("problem", said, "put a valid OPENAI_API_KEY into atenea.env")}


@pytest.mark.parametrize(
    ("listing", "text", "cure"),
    [
        ("500", "HOST answers with status 500: The server had an error: Bearer [secret]", None),
        ("redirect", "HOST sends us elsewhere (status 307): set base_url to the right address", None),
        ("reset", "the connection to HOST failed (ReadError)", "if it stays so, look at base_url and the network"),
        ("html", "HOST sent what is not understood", "is base_url right?"),
        ('{"data": 3}', "HOST sent what is not understood", "is base_url right?"),
        ('"text"', "HOST sent what is not understood", "is base_url right?"),
    ],
)
def test_answers_that_help_nobody(diagnose, listing, text, cure):
    again = "look at base_url and the network, then run this again"
    with SpeechServer(listing=listing) as server:
        assert diagnose(server) == {"server": ("problem", text, cure or again)}


def test_a_server_that_cannot_be_reached(diagnose):
    with SpeechServer() as server:
        pass
    (status, text, cure) = diagnose(server)["server"]
    assert (status, text) == ("problem", "the connection to HOST failed (ConnectError)")
    assert cure == "if it stays so, look at base_url and the network"


@pytest.mark.parametrize("listing", ["403", "404", "501"])
def test_a_server_that_has_no_list_for_this_key(diagnose, listing):
    with SpeechServer(listing=listing) as server:
        (status, text, _) = diagnose(server)["server"]
    assert status == "note"
    assert text == f"HOST does not tell which models it has (status {listing}), so none of this could be checked"


def test_a_model_that_the_server_does_not_have(diagnose):
    with SpeechServer(models=[*MODELS, "nonsense", {"object": "model"}]) as server:
        cure = "set model to one that it tells of, such as kokoro"
        assert diagnose(server, model="kokoru")["model"] == (
            "problem",
            "HOST has no model 'kokoru', or not for this key",
            cure,
        )
        assert diagnose(server, model="zzz")["model"][2] == f"{cure[:-6]}gpt-realtime-2.1-mini, kokoro"


def test_a_model_that_ends(diagnose, plugin, monkeypatch):
    monkeypatch.setattr(plugin, "_today", lambda: date(2027, 1, 1))
    models = [
        {"id": "soon", "shutdown_date": "2027-01-06"},
        {"id": "tomorrow", "shutdown_date": "2027-01-02T00:00:00Z"},
        {"id": "gone", "shutdown_date": "2027-01-01"},
    ]
    with SpeechServer(models=models) as server:
        told = {name: diagnose(server, model=name)["model"] for name in ("soon", "tomorrow", "gone")}
    cure = "set model to 'gpt-realtime-2.1-mini'"
    assert told == {
        "soon": ("note", "HOST retires soon on 2027-01-06, in 5 days", f"{cure} before that"),
        "tomorrow": ("note", "HOST retires tomorrow on 2027-01-02, in 1 day", f"{cure} before that"),
        "gone": ("problem", "HOST retired gone on 2027-01-01", cure),
    }


@pytest.mark.parametrize(
    "voices", [["af_heart", "af_sky"], [{"id": "af_heart", "name": "Heart"}, {"voice_id": "af_sky"}, 3]]
)
def test_voices_that_the_server_tells_of(diagnose, voices):
    with SpeechServer(models=MODELS, voices=voices) as server:
        assert diagnose(server, voice="af_heart")["voice"] == ("ok", "HOST has the voice af_heart", "")
        cure = "set voice to one that it tells of, such as af_heart"
        status, text, told = diagnose(server, voice="af_hart")["voice"]
        assert (status, text, told[: len(cure)]) == ("problem", "HOST has no voice 'af_hart'", cure)
        assert "voice" not in diagnose(server, voice="af_heart+af_sky(2)")


def test_what_the_realtime_api_cannot_do(diagnose):
    with SpeechServer(models=MODELS) as server:
        found = diagnose(server, model="gpt-realtime-2.1-mini", speed=3.0)
    said = "the Realtime API speaks at most 1.5 times as fast"
    assert found["options"] == ("problem", said, "speed is 3")
