"""SIGHUP: what a running daemon takes over from a changed configuration, and what it says about the rest."""

from __future__ import annotations

import json
import os
import signal

from system.gates import CONFIG, Gates
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

STUB = "[render]\nplugin = 'stub'\n"


def reload(instance: Instance, config: str) -> None:
    """Change the configuration and wait until the daemon follows it."""
    instance.configure(config)
    before = len(instance.events("configuration reloaded"))
    hang_up(instance)
    wait_until(lambda: len(instance.events("configuration reloaded")) > before, "the reload")


def hang_up(instance: Instance) -> None:
    assert instance.process is not None
    os.kill(instance.process.pid, signal.SIGHUP)


def stages(instance: Instance, name: str) -> list[dict[str, object]]:
    instance.output(f"{name}.mp4")
    found: list[dict[str, object]] = json.loads((instance.outbox / f"{name}.json").read_text())["stages"]
    return found


def test_changed_and_new_presets_count_for_the_jobs_that_follow(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[presets.news]\ntts.voice = 'en-us'\n")
    instance.plugin("stub", RENDER_STUB)
    for preset in ("news", "sport"):
        (instance.inbox / preset).mkdir()
    instance.start()
    (instance.inbox / "news" / "one.txt").write_text("One.")
    (instance.inbox / "sport" / "goal.txt").write_text("Goal.")
    assert stages(instance, "one")[0]["options"] == {"voice": "en-us", "rate": 170, "pitch": 50}
    reload(instance, STUB + "[presets.news]\ntts.rate = 200\n[presets.sport]\ntts.pitch = 90\n")
    assert stages(instance, "goal")[0]["options"] == {"voice": "en", "rate": 170, "pitch": 90}
    (instance.inbox / "news" / "two.txt").write_text("Two.")
    assert stages(instance, "two")[0]["options"] == {"voice": "en", "rate": 200, "pitch": 50}


def test_everything_but_the_folders_can_change_at_run_time(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'moody'\n[retry]\nfirst_seconds = 3600\n")
    instance.plugin("moody", "@hookimpl\ndef render(job, wav, ctx):\n    raise TransientError('not now')\n")
    instance.start()
    instance.drop("first.txt", "First.")
    [warning] = wait_until(lambda: instance.events("stage failed; it will be tried again"), "the first failure")
    assert warning["seconds"] > 1000

    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    changed = "[retry]\nattempts = 2\nfirst_seconds = 0.01\n[outbox]\nprogress_files = true\n[workers]\ncpu = 1\n"
    reload(instance, CONFIG + changed)
    instance.drop("moody.toml", 'text = "Moody."\nrender.plugin = "moody"\n')
    assert instance.output("moody.error.txt").read_text().splitlines()[0] == (
        "render plugin 'moody': not now (given up after 2 attempts)"
    )
    instance.drop("gated.txt", "Gated.")
    gates.wait("render")
    instance.drop("waiting.txt", "Waiting.")
    progress = instance.output("gated.progress.txt")
    # One slot for the CPU now: the other job stays where it is.
    wait_until(lambda: "waiting" in [event["name"] for event in instance.events("job accepted")], "the other job")
    instance.wait_for_job("waiting", lambda job: job["state"] == "queued" and not job["running"], "to wait")
    assert gates.calls("tts", "waiting") == []
    reload(instance, CONFIG)
    wait_until(lambda: not progress.exists(), "the progress file to go")
    gates.open("render")
    instance.output("gated.mp4")
    instance.output("waiting.mp4")


def test_watching_can_change_at_run_time(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[watch]\nsettle_seconds = 3600\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    instance.drop("hello.txt", "Hello.")
    reload(instance, STUB + "[watch]\nsettle_seconds = 0.1\nrescan_seconds = 0.2\npolling = true\n")
    instance.output("hello.mp4")
    instance.drop("polled.txt", "Hello.")
    instance.output("polled.mp4")


def test_changed_folders_need_a_restart_and_the_log_says_so(new_instance: NewInstance) -> None:
    instance = new_instance(STUB)
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    (instance.folder / "pictures").mkdir()
    reload(instance, STUB + "[paths]\ninbox = 'elsewhere'\nstate = 'memory'\nassets = 'pictures'\n")
    [warning] = instance.events("a changed path takes effect when atenea is started again")
    assert warning["keys"] == ["paths.inbox", "paths.state"]
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.mp4")
    assert not (instance.folder / "elsewhere").exists()
    assert not (instance.folder / "memory").exists()


def test_a_configuration_with_mistakes_is_not_taken_over(new_instance: NewInstance) -> None:
    instance = new_instance(STUB)
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    file = instance.folder / "atenea.toml"
    instance.configure(STUB + "[retry]\natempts = 3\n")
    hang_up(instance)
    [error] = wait_until(lambda: instance.events("the configuration is not reloaded"), "the complaint")
    assert error["error"] == f"{file}: retry.atempts: unknown key; did you mean 'attempts'?"
    instance.configure(STUB + "[tts.espeak]\nrate = 9999\n")
    hang_up(instance)
    _, error = wait_until(
        lambda: len(found := instance.events("the configuration is not reloaded")) > 1 and found, "the other complaint"
    )
    assert error["error"] == f"{file}: tts.espeak.rate: should be less than or equal to 450, but is 9999"
    instance.drop("hello.txt", "Hello.")
    assert stages(instance, "hello")[0]["options"] == {"voice": "en", "rate": 170, "pitch": 50}
    assert instance.events("configuration reloaded") == []


def test_plugins_are_loaded_anew_for_the_jobs_that_follow(new_instance: NewInstance) -> None:
    instance = new_instance(STUB + "[post]\nplugins = ['note']\n")
    instance.plugin("stub", RENDER_STUB)
    note = "@hookimpl\ndef post(job, video, ctx):\n    ctx.report['version'] = {}\n"
    instance.plugin("note", note.format(1))
    instance.start()
    instance.drop("one.txt", "One.")
    assert stages(instance, "one")[-1]["report"] == {"version": 1}
    instance.plugin("note", note.format(2))
    reload(instance, STUB + "[post]\nplugins = ['note']\n")
    instance.drop("two.txt", "Two.")
    assert stages(instance, "two")[-1]["report"] == {"version": 2}
