"""The provenance plugin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from atenea.errors import Cancelled
from atenea.media.mux import add_speech
from atenea.media.provenance import read
from atenea.media.signer import untrusted_signer
from atenea.mistakes import Invalid, validated

MADE_BY = (
    {"stage": "tts", "plugin": "openai", "version": "0.1.0", "options": {"model": "m-1", "voice": "v", "api": "auto"}},
    {"stage": "audio", "plugin": "wav", "version": "0.1.0", "options": {"max_seconds": 5}},
    {"stage": "render", "plugin": "hallo2", "version": "0.1.0", "options": {"seed": 1, "models": "/srv/models"}},
    {"stage": "post", "plugin": "poster", "version": "0.1.0", "options": {"voice": "none"}},
)


@pytest.fixture
def film(load_plugin, make_context, make_wav, make_job, tmp_path) -> Path:
    """A second of `preview`, with its sound."""
    preview = load_plugin("preview")
    wav = make_wav(16000)
    picture = preview.render(make_job("Hello."), wav, make_context(preview, stage="render", width=64, height=64))
    add_speech(picture, wav, 16000, tmp_path / "film.mp4")
    return tmp_path / "film.mp4"


@pytest.fixture
def provenance(load_plugin):
    return load_plugin("provenance")


def test_a_marked_video_tells_the_public_facts(provenance, make_context, make_job, film):
    ctx = make_context(provenance)
    ctx.stages = MADE_BY
    before = film.read_bytes()
    target = provenance.post(make_job("A secret text."), film, ctx)
    assert [path.name for path in ctx.workdir.iterdir()] == [target.name]
    assert film.read_bytes() == before
    found = read(target)
    assert (found.state, found.made_by_ai) == ("valid", True)
    assert found.actions[0]["parameters"] == {
        "tts": {"plugin": "openai", "model": "m-1", "voice": "v"},
        "render": {"plugin": "hallo2"},
    }
    assert ctx.report == {"signed_by": "atenea test certificate, not trusted"}
    assert os.listdir(ctx.cache) == ["test-certificate.pem"]
    for private in (b"secret", b"/srv", b"max_seconds"):
        assert private not in target.read_bytes()


def test_paths_of_models_stay_private(provenance, make_context, make_job, film):
    ctx = make_context(provenance)
    ctx.stages = ({"stage": "tts", "plugin": "own", "version": None, "options": {"model": "/srv/v.bin", "voice": "x"}},)
    assert read(provenance.post(make_job("Hi."), film, ctx)).actions[0]["parameters"] == {
        "tts": {"plugin": "own", "voice": "x"}
    }


def test_what_a_crash_has_left_is_no_hindrance(provenance, make_context, make_job, film):
    ctx = make_context(provenance)
    for name in ("tagged.mp4", "signed.mp4", "provenance.mp4"):
        (ctx.workdir / name).write_bytes(b"half of a video")
    assert read(provenance.post(make_job("Hi."), film, ctx)).state == "valid"


def test_a_cancelled_one_leaves_no_result(provenance, make_context, make_job, film):
    def cancel(fraction, text):
        if text == "signing":
            raise Cancelled

    ctx = make_context(provenance, on_progress=cancel)
    with pytest.raises(Cancelled):
        provenance.post(make_job("Hi."), film, ctx)
    assert not (ctx.workdir / "provenance.mp4").exists()


def test_progress_rises(provenance, make_context, make_job, film):
    seen = []
    ctx = make_context(provenance, on_progress=lambda fraction, text: seen.append((fraction, text)))
    provenance.post(make_job("Hi."), film, ctx)
    assert seen == sorted(seen, key=lambda pair: pair[0])
    assert (seen[0][1], seen[-1]) == ("tagging", (0.5, "signing"))


def test_check_looks_at_the_certificate_before_anything_is_done(provenance, make_context, tmp_path):
    assert provenance.check(make_context(provenance)) is None
    ctx = make_context(provenance, certificate=tmp_path / "chain.pem", private_key=tmp_path / "key.pem")
    assert provenance.check(ctx) == f"certificate: {tmp_path / 'chain.pem'} cannot be read: No such file or directory"


def test_the_doctor_says_in_whose_name(provenance, make_context, tmp_path):
    [found] = provenance.diagnose(make_context(provenance))
    assert (found.status, found.text) == ("note", "videos are signed with a test certificate that nobody trusts")
    files = {"certificate": tmp_path / "s.pem", "private_key": tmp_path / "s.pem"}
    [found] = provenance.diagnose(make_context(provenance, **files))
    assert (found.status, found.cure) == ("problem", "mend what [post.provenance] names")
    untrusted_signer(tmp_path)
    (tmp_path / "test-certificate.pem").rename(tmp_path / "s.pem")
    [found] = provenance.diagnose(make_context(provenance, **files))
    assert (found.status, found.text) == ("ok", "videos are signed by 'atenea test certificate, not trusted'")
    (tmp_path / "s.pem").chmod(0o644)
    [found] = provenance.diagnose(make_context(provenance, **files))
    assert (found.text, found.cure) == (
        f"private_key: others may read {tmp_path / 's.pem'}",
        f"run: chmod 600 {tmp_path / 's.pem'}",
    )


def test_the_doctor_cannot_look_at_a_credential_of_the_service(provenance, make_context, tmp_path):
    key = "$CREDENTIALS_DIRECTORY/provenance.key"
    [found] = provenance.diagnose(make_context(provenance, certificate=tmp_path / "s.pem", private_key=key))
    assert (found.status, found.text) == (
        "note",
        f"{key} is there only where systemd hands it over, so it was not looked at",
    )
    assert found.cure == (
        "sudo systemd-run --quiet --pipe --wait --property=User=atenea"
        " --property=LoadCredential=provenance.key:/etc/atenea/provenance.key"
        f" {sys.executable} -m atenea doctor --config /etc/atenea/atenea.toml"
    )
    both = provenance.diagnose(make_context(provenance, certificate=key, private_key=key))
    assert both == [found]
    deep = "$CREDENTIALS_DIRECTORY/deep/k.pem"
    [found] = provenance.diagnose(make_context(provenance, certificate=deep, private_key=deep))
    assert " --property=LoadCredential=deep/k.pem:/etc/atenea/deep/k.pem " in found.cure


def test_the_doctor_tells_first_of_what_no_credential_mends(provenance, make_context, monkeypatch):
    monkeypatch.setattr("atenea.media.provenance.find_spec", lambda _: None)
    key = "$CREDENTIALS_DIRECTORY/provenance.key"
    [found] = provenance.diagnose(make_context(provenance, certificate=key, private_key=key))
    assert (found.status, found.text, found.cure) == (
        "problem",
        "c2pa-python, which content credentials need, is missing",
        f"run: {sys.executable} -m pip install 'atenea[provenance]'",
    )


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (
            {"certificate": "/c.pem"},
            "post.provenance: certificate and private_key belong together; set both, or none for a test certificate",
        ),
        (
            {"certificate": "c.pem", "private_key": "/k.pem"},
            "post.provenance.certificate: should be an absolute path, but is 'c.pem'",
        ),
        (
            {"timestamp_url": "ftp://x"},
            "post.provenance.timestamp_url: should be an address that begins with http:// or https://, but is 'ftp://x'",
        ),
        (
            {"timestamp_url": "https://me:pass@x"},
            "post.provenance.timestamp_url: should be an address without a password, which could be read in the log",
        ),
        ({"enabled": "no"}, 'post.provenance.enabled: should be a valid boolean, but is "no"'),
    ],
)
def test_options_that_make_no_sense(provenance, options, mistake):
    with pytest.raises(Invalid) as caught:
        validated(provenance.Options, options, "post.provenance")
    assert caught.value.mistakes == [mistake]


def test_options_of_the_service_may_name_its_credentials(provenance):
    paths = {"certificate": "/etc/c.pem", "private_key": "$CREDENTIALS_DIRECTORY/k.pem"}
    options = provenance.Options(**paths)
    assert options.private_key == Path("$CREDENTIALS_DIRECTORY/k.pem")
    assert options.model_dump(mode="json") == {"enabled": True, "certificate": "/etc/c.pem", "timestamp_url": None}
    with pytest.raises(ValidationError):
        provenance.Options(certificate="/etc/c.pem", private_key="$OTHER/k.pem")
    assert provenance.Options.configuration_only == set(provenance.Options.model_fields)
