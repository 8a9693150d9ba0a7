"""Videos are marked as made by AI, unless somebody says otherwise, and `atenea show --provenance` reads it back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from system.instance import RENDER_STUB, Instance, NewInstance

from atenea.media.signer import untrusted_signer

DEFAULT = "[render]\nplugin = 'stub'\n# provenance as it is by default\n"
TEST_NAME = "atenea test certificate, not trusted"

WITHOUT_C2PA = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "c2pa" else found(name, *rest)
"""


@pytest.fixture
def stub(new_instance: NewInstance):
    """An instance whose videos are grey."""

    def make(config: str = DEFAULT) -> Instance:
        instance = new_instance(config)
        instance.plugin("stub", RENDER_STUB)
        return instance

    return make


def provenance(instance: Instance, file: Path, *more: str, code: int = 0) -> dict:
    return json.loads(instance.atenea("show", "--provenance", str(file), *more, "--json", code=code).stdout)


def test_a_job_is_marked_and_read_back_without_the_daemon(stub) -> None:
    instance = stub()
    instance.drop("hello.txt", "Nothing of this text is told.")
    instance.drop("bare.toml", "text = 'Hello.'\n[post]\nplugins = []\n")
    instance.atenea("run", "--once")
    video = instance.outbox / "hello.mp4"
    found = provenance(instance, video)
    assert (found["file"], found["state"], found["made_by_ai"], found["problems"]) == (str(video), "valid", True, [])
    assert (found["signed_by"], found["signed_at"], found["generator"]) == (TEST_NAME, None, "atenea 0.1.0")
    assert found["actions"][0]["parameters"] == {
        "tts": {"plugin": "espeak", "voice": "en"},
        "render": {"plugin": "stub"},
    }
    assert found["tags"]["title"] == "hello"
    assert b"Nothing of this text" not in video.read_bytes()
    report = json.loads((instance.outbox / "hello.json").read_text())
    assert report["stages"][-1]["report"] == {"signed_by": TEST_NAME}
    assert provenance(instance, instance.outbox / "bare.mp4")["state"] == "valid"

    data = bytearray(video.read_bytes())
    data[-100] ^= 1
    changed = instance.folder / "changed.mp4"
    changed.write_bytes(data)
    said = instance.atenea("show", "--provenance", str(changed), code=1).stdout
    assert "content credentials are broken: it was changed after it was signed" in said


def test_the_operators_certificate_comes_from_a_credential(stub, tmp_path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    signer = untrusted_signer(credentials)
    shutil.move(credentials / "test-certificate.pem", credentials / "both.pem")
    instance = stub(
        DEFAULT + "[post.provenance]\ncertificate = '$CREDENTIALS_DIRECTORY/both.pem'\n"
        "private_key = '$CREDENTIALS_DIRECTORY/both.pem'\n"
    )
    instance.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    instance.drop("hello.txt", "Hello.")
    instance.start()
    instance.output("hello.json")
    video = instance.output("hello.mp4")
    found = provenance(instance, video, "--trust", str(credentials / "both.pem"))
    assert (found["state"], found["signed_by"]) == ("trusted", signer.name)
    assert not (instance.folder / "cache" / "provenance" / "test-certificate.pem").exists()
    options = json.loads((instance.outbox / "hello.json").read_text())["stages"][-1]["options"]
    assert options == {"enabled": True, "certificate": str(credentials / "both.pem"), "timestamp_url": None}
    secret = signer.key.decode().splitlines()[1]
    assert secret not in instance.log.read_text()
    (credentials / "both.pem").chmod(0o644)
    instance.drop("open.txt", "Hello.")
    sentence = instance.output("open.error.txt").read_text().splitlines()[0]
    path = credentials / "both.pem"
    assert sentence == f"open.txt: plugin 'provenance': private_key: others may read {path}; run: chmod 600 {path}"
    instance.stop()


def test_without_the_extra_no_video_is_marked_and_asking_for_it_says_what_to_install(stub) -> None:
    instance = stub()
    (instance.folder / "path").mkdir()
    (instance.folder / "path" / "sitecustomize.py").write_text(WITHOUT_C2PA)
    instance.environment["PYTHONPATH"] = str(instance.folder / "path")
    instance.drop("plain.txt", "Hello.")
    instance.drop("asked.toml", "text = 'Hello.'\n[post]\nplugins = ['provenance']\n")
    instance.atenea("run", "--once", code=1)
    assert instance.outputs() == ["asked.error.txt", "plain.json", "plain.mp4"]
    command = f"{sys.executable} -m pip install 'atenea[provenance]'"
    missing = f"c2pa-python, which content credentials need, is missing; run: {command}"
    sentence = (instance.outbox / "asked.error.txt").read_text().splitlines()[0]
    assert sentence == f"asked.toml: plugin 'provenance': {missing}"
    done = instance.atenea("show", "--provenance", str(instance.outbox / "plain.mp4"), code=1)
    assert done.stderr == f"atenea: {missing}\n"


def test_the_plugin_is_listed_as_enabled_and_show_wants_a_job_or_a_video(stub) -> None:
    instance = stub()
    enabled = {plugin["name"] for plugin in instance.ask("plugins")["plugins"] if plugin["enabled"]}
    assert enabled == {"espeak", "wav", "stub", "provenance"}
    assert instance.atenea("show", code=2).stderr == (
        "atenea: show: name a job; or a video, to see how it was made: --provenance FILE\n"
    )
