"""Every command against a running daemon, and without one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from system.instance import PATIENCE_SECONDS, RENDER_STUB, Instance, NewInstance, wait_until

from atenea.config import load_config
from atenea.control import look

WAITING = """
@hookimpl
def render(job, wav, ctx):
    import time
    (ctx.workdir / "started").touch()
    while True:
        ctx.progress(0.25, "a quarter")
        time.sleep(0.01)
"""


@pytest.fixture
def waiting(new_instance: NewInstance) -> Instance:
    """An instance whose renders never end by themselves."""
    instance = new_instance("[render]\nplugin = 'waiting'\n[workers]\ncpu = 1\n")
    instance.plugin("waiting", WAITING)
    return instance.start()


def running(instance: Instance, name: str) -> dict[str, object]:
    return instance.wait_for_job(name, lambda job: job["fraction"] == 0.25, "to run")


def test_submit_and_wait_prints_the_video(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance("[render]\nplugin = 'stub'\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    text = tmp_path / "greeting.txt"
    text.write_text("Hello.")
    done = instance.atenea("submit", str(text), "--wait")
    assert done.stdout == f"{instance.outbox / 'greeting.mp4'}\n"
    assert text.exists()
    lines = done.stderr.splitlines()
    assert all("%" in line for line in lines)


def test_submit_wait_exits_1_with_the_reason_when_the_job_fails(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance().start()
    job = tmp_path / "wrong.toml"
    job.write_text('text = "Hi"\n[render]\nfsp = 3\n')
    done = instance.atenea("submit", str(job), "--wait", code=1)
    assert done.stderr.splitlines()[-1] == (
        "atenea: wrong: failed: wrong.toml: render.fsp: unknown key; did you mean 'fps'?"
    )


def test_submit_sends_the_files_that_a_job_names(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance("[render]\nplugin = 'stub'\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    (tmp_path / "speech.txt").write_text("Spoken from a file.")
    (tmp_path / "job.toml").write_text('text_file = "speech.txt"\n')
    instance.atenea("submit", str(tmp_path / "job.toml"))
    instance.output("job.mp4")


def test_submit_without_a_daemon_leaves_the_job_for_later(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance()
    text = tmp_path / "later.txt"
    text.write_text("Later.")
    assert instance.atenea("submit", str(text)).stdout == f"{instance.inbox / 'later.txt'}\n"
    refused = instance.atenea("submit", str(text), "--wait", code=2)
    reason = "no daemon has run here yet; start it (atenea run), or name its --config"
    assert refused.stderr == f"atenea: {instance.folder / 'state'}: {reason}\n"
    assert os.listdir(instance.inbox) == ["later.txt"]


def test_who_waits_is_told_that_the_daemon_has_ended(waiting: Instance, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("Hello.")
    command = waiting.command("submit", str(text), "--wait", "--config", "atenea.toml")
    process = subprocess.Popen(command, cwd=waiting.folder, stderr=subprocess.PIPE, text=True)
    running(waiting, "long")
    assert waiting.stop() == 0
    _, told = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert told.splitlines()[-1] == "atenea: the daemon has ended; long.txt goes on when one runs again: atenea run"


def test_jobs_show_progress_and_cancel(waiting: Instance) -> None:
    waiting.drop("long.txt", "Hello.")
    job = running(waiting, "long")
    assert (job["state"], job["stage"], job["plugin"], job["progress"]) == ("render", "render", "waiting", "a quarter")
    assert job["seconds_left"] is None  # it has been so far from the start
    line = waiting.atenea("jobs").stdout.split("\t")
    assert line[:4] == [job["id"], "long", "render", "25%"]
    shown = waiting.atenea("show", "long").stdout
    assert "now: waiting 25%" in shown
    assert "  tts espeak  " in shown

    assert waiting.atenea("cancel", "long").stdout == f"long ({job['id']}) is being cancelled\n"
    assert waiting.wait_for_state("long", "cancelled")["running"] is False
    assert waiting.outputs() == []
    again = waiting.atenea("cancel", "long", code=2)
    assert again.stderr == f"atenea: long ({job['id']}) is cancelled already; there is nothing to cancel\n"


def test_a_cancelled_job_makes_room_for_the_next(waiting: Instance) -> None:
    waiting.drop("first.txt", "Hello.")
    running(waiting, "first")
    waiting.drop("second.txt", "Hello.")
    waiting.atenea("cancel", "first")
    running(waiting, "second")


def test_pause_holds_stages_and_resume_lets_them_go(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'stub'\n")
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    assert instance.atenea("pause").stdout == "the queue is paused\n"
    instance.drop("held.txt", "Hello.")
    instance.drop("bad.txt", "")
    instance.output("bad.error.txt")
    wait_until(lambda: instance.events("job accepted"), "intake")
    listed = instance.ask("jobs")
    assert listed["paused"] is True
    assert [job["state"] for job in listed["jobs"] if job["name"] == "held"] == ["queued"]
    assert instance.atenea("resume").stdout == "the queue goes on\n"
    instance.output("held.mp4")


def test_retry_goes_on_after_the_last_finished_stage(new_instance: NewInstance) -> None:
    instance = new_instance("[tts]\nplugin = 'counting'\n[render]\nplugin = 'stub'\n")
    calls = instance.folder / "calls"
    instance.plugin(
        "counting",
        "import wave\n@hookimpl\ndef tts(job, ctx):\n"
        f"    with open({str(calls)!r}, 'a') as file:\n        file.write(job.name + '\\n')\n"
        "    path = ctx.workdir / 'speech.wav'\n"
        "    with wave.open(str(path), 'wb') as wav:\n"
        "        wav.setparams((1, 2, 16000, 0, 'NONE', ''))\n        wav.writeframes(bytes(32000))\n"
        "    return path\n",
    )
    instance.plugin("stub", "@hookimpl\ndef render(job, wav, ctx):\n    raise PermanentError('the lamp is broken')\n")
    instance.start()
    instance.drop("again.txt", "Hello.")
    answer = instance.output("again.error.txt").read_text()
    assert answer.splitlines()[0] == "render plugin 'stub': the lamp is broken"
    instance.wait_for_state("again", "failed")

    instance.plugin("stub", RENDER_STUB)
    os.kill(instance.process.pid, 1)  # SIGHUP: plugins are loaded anew
    wait_until(lambda: instance.events("configuration reloaded"), "the reload")
    instance.atenea("retry", "again")
    instance.output("again.mp4")
    wait_until(lambda: instance.outputs() == ["again.json", "again.mp4"], "the error file to go")
    assert calls.read_text() == "again\n"


def test_queue_commands_work_without_a_daemon(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'waiting'\n")
    instance.plugin("waiting", WAITING)
    instance.start()
    instance.drop("left.txt", "Hello.")
    running(instance, "left")
    assert instance.stop() == 0
    listed = instance.ask("jobs")
    assert (listed["daemon"], [job["state"] for job in listed["jobs"]]) == (False, ["render"])
    instance.atenea("cancel", "left")
    assert instance.job("left")["state"] == "cancelled"
    instance.atenea("retry", "left")
    assert instance.job("left")["state"] == "queued"
    instance.atenea("pause")
    assert instance.ask("jobs")["paused"] is True
    text = instance.folder / "more.txt"
    text.write_text("Hello.")
    refused = instance.atenea("submit", str(text), "--wait", code=2)
    assert refused.stderr == "atenea: no daemon is running; start it (atenea run), or submit without --wait\n"
    assert os.listdir(instance.inbox) == []
    missing = instance.atenea("show", "nobody", code=2)
    assert missing.stderr == "atenea: nobody: there is no such job; see: atenea jobs\n"


def test_check_names_every_mistake_and_runs_nothing(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance()
    good, bad = tmp_path / "good.txt", tmp_path / "bad.toml"
    good.write_text("Hello.")
    bad.write_text('text = "Hi"\nprio = 1\n[tts]\nvoice = "xx-yy"\n')
    done = instance.atenea("check", str(good), str(bad), code=1)
    assert done.stdout == f"{good}: ok\n"
    assert done.stderr == "atenea: bad.toml: prio: unknown key; did you mean 'priority'?\n"
    bad.write_text('text = "Hi"\nrender.plugin = "prevue"\n[tts]\nvoice = "xx-yy"\nrate = 3\n')
    done = instance.atenea("check", str(bad), code=1)
    assert "tts.rate: should be greater than or equal to 80, but is 3" in done.stderr
    assert "there is no plugin 'prevue'; did you mean 'preview'?" in done.stderr
    linked, picture, folder = tmp_path / "linked.txt", tmp_path / "face.png", tmp_path / "empty"
    linked.symlink_to("good.txt")
    picture.write_bytes(b"")
    folder.mkdir()
    done = instance.atenea("check", str(linked), str(picture), str(folder), str(tmp_path / "gone.txt"), code=1)
    assert done.stdout == f"{linked}: ok\n"
    assert done.stderr.splitlines() == [
        f"atenea: {picture}: is no job; name a .txt, a .toml, or a folder with a job.toml inside",
        f"atenea: {folder}: is no job folder; there is no job.toml in it",
        f"atenea: {tmp_path / 'gone.txt'}: there is no such job file",
    ]
    assert list(instance.inbox.iterdir()) == []
    assert not (instance.folder / "state").exists()


def test_plugins_lists_them_with_the_reason_of_a_refusal(new_instance: NewInstance) -> None:
    instance = new_instance("[post]\nplugins = ['poster']\n")
    instance.plugin("broken", "import nonexistent_package\n")
    instance.plugin("loose", "@hookimpl\ndef post(job, video, ctx): ...\n")
    (instance.plugins / "loose.py").chmod(0o666)
    (instance.plugins / "linked.py").symlink_to(instance.plugins / "broken.py")
    found = {plugin["name"]: plugin for plugin in instance.ask("plugins")["plugins"]}
    assert {"espeak", "wav", "preview", "poster", "broken", "loose", "linked"} <= set(found)
    assert (found["espeak"]["stages"], found["espeak"]["needs"], found["espeak"]["enabled"]) == (["tts"], ["cpu"], True)
    assert found["preview"]["options"]["properties"]["fps"]["default"] == 25
    assert "nonexistent_package" in found["broken"]["refused"]
    assert f"chmod go-w {instance.plugins / 'loose.py'}" in found["loose"]["refused"]
    assert "symbolic link" in found["linked"]["refused"]


def test_generate_makes_one_video_without_a_daemon(new_instance: NewInstance, tmp_path: Path) -> None:
    from PIL import Image

    instance = new_instance()
    text, avatar = tmp_path / "words.txt", tmp_path / "face.png"
    text.write_text("Hello.")
    Image.new("RGB", (80, 60), "red").save(avatar)
    target = tmp_path / "out.mp4"
    done = instance.atenea("generate", "-i", str(text), "-a", str(avatar), "-v", "es", "--fps", "10", "-o", str(target))
    assert done.stdout == f"{target}\n"
    import av

    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == 10
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    red, green, blue = frame[150, 256]
    assert red > 150 > green + blue
    assert sorted(os.listdir(tmp_path)) == ["face.png", "instance-0", "out.mp4", "words.txt"]


def test_generate_blames_what_was_given_on_its_command_line(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance()
    text, job, avatar = (tmp_path / name for name in ("words.txt", "words.toml", "face.png"))
    text.write_text("Hello.")
    job.write_text('text = "Hello."\nrender.num_inference_steps = 3\nrender.fps = 900\n')
    avatar.write_text("no picture")
    unknown = "unknown key; valid: font, fps, height, width"
    lacking = "--steps: the render plugin has no option num_inference_steps; valid: font, fps, height, width"
    few = "--fps: should be greater than or equal to 1, but is 0"
    many = "render.fps: should be less than or equal to 60, but is 900"

    def refused(file: Path, *options: str) -> str:
        return instance.atenea("generate", "-i", str(file), *options, code=1).stderr

    assert refused(text, "--steps", "3") == f"atenea: {lacking}\n"
    assert refused(job, "--steps", "3") == f"atenea: words.toml: {many}; {lacking}\n"
    assert refused(job, "--fps", "0") == f"atenea: {few}; render.num_inference_steps: {unknown}\n"
    assert refused(text, "-a", str(avatar)) == (
        "atenea: --avatar: face.png is no picture that can be read: use PNG, JPEG or WebP\n"
    )


def test_generate_refuses_a_folder_as_the_video_before_any_work(new_instance: NewInstance, tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("Hello.")
    refused = new_instance().atenea("generate", "-i", str(text), "-o", str(tmp_path), code=2)
    assert refused.stderr == f"atenea: {tmp_path}: is a folder; name the video's file in it\n"


def test_names_that_are_no_utf8_are_checked_and_submitted(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance(PYTHONIOENCODING="utf-8:strict")
    text = tmp_path / "caf\udce9.txt"
    text.write_text("Hello.")
    config = str(instance.folder / "atenea.toml")
    for command, said in (("check", b"caf_.txt: ok\n"), ("submit", b"inbox/caf\xe9.txt\n")):
        done = subprocess.run(
            instance.command(command, os.fspath(text), "--config", config),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            env=instance.environment,
            cwd=instance.folder,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.endswith(said)


def test_generate_can_be_interrupted(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance("[render]\nplugin = 'waiting'\n")
    instance.plugin("waiting", WAITING)
    text = tmp_path / "words.txt"
    text.write_text("Hello.")
    command = instance.command("generate", "-i", str(text), "-o", str(tmp_path / "o.mp4"), "--config", "atenea.toml")
    process = subprocess.Popen(command, cwd=instance.folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("waiting: 25%" in line for line in process.stderr)
    process.send_signal(2)
    assert process.wait(PATIENCE_SECONDS) == 130
    process.stderr.close()
    assert sorted(os.listdir(tmp_path)) == ["instance-0", "words.txt"]


def test_what_the_machine_refuses_is_one_line(new_instance: NewInstance) -> None:
    name = "x" * 300 + ".txt"
    assert new_instance().atenea("check", name, code=1).stderr == f"atenea: {name}: File name too long\n"


def test_without_a_command_there_is_help_that_says_where_to_begin() -> None:
    alone, asked = (
        subprocess.run(
            [sys.executable, "-m", "atenea", *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        for words in ([], ["--help"])
    )
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", asked.stdout)
    begin = asked.stdout.partition("\n  Begin with:\n")[2].splitlines()
    assert [line.split()[1] for line in begin] == ["generate", "run", "submit", "doctor"]


def test_help_is_in_words(new_instance: NewInstance) -> None:
    instance = new_instance()
    assert "[default: 20]\n" in instance.atenea("jobs", "--help").stdout
    assert "`workers.cancel_seconds`" in instance.atenea("cancel", "--help").stdout
    assert "  atenea show --provenance outbox/hello.mp4\n" in instance.atenea("show", "--help").stdout


def test_usage_errors_are_one_line_and_exit_2(new_instance: NewInstance) -> None:
    instance = new_instance()
    done = instance.atenea("run", "--onec", code=2)
    assert done.stderr == "atenea: No such option: --onec (Possible options: --once); see atenea run --help\n"
    instance.configure("[watch]\nsettle = 1\n[tts]\nplugin = 3\n")
    done = instance.atenea("run", code=2)
    file = instance.folder / "atenea.toml"
    assert done.stderr.splitlines() == [
        f"atenea: {file}: watch.settle: unknown key; did you mean 'settle_seconds'?",
        f"atenea: {file}: tts.plugin: should be a valid string, but is 3",
    ]


def test_wrong_options_in_the_configuration_stop_the_start(new_instance: NewInstance) -> None:
    instance = new_instance("[tts.espeak]\nrate = 9999\n[render]\nplugin = 'prevew'\n")
    done = instance.atenea("run", "--once", code=2)
    file = instance.folder / "atenea.toml"
    complaints = [line for line in done.stderr.splitlines() if line.startswith("atenea: ")]
    assert complaints[0] == f"atenea: {file}: tts.espeak.rate: should be less than or equal to 450, but is 9999"
    assert complaints[1].startswith(
        f"atenea: {file}: render.plugin: there is no plugin 'prevew'; did you mean 'preview'?"
    )


def test_the_socket_is_for_the_group_and_a_second_daemon_is_refused(waiting: Instance) -> None:
    socket = waiting.folder / "state" / "control.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    second = waiting.atenea("run", code=3)
    assert f"{waiting.folder / 'state'}: in use by another atenea (process {waiting.process.pid})" in second.stderr
    assert waiting.stop() == 0
    assert not socket.exists()


def test_changes_show_within_a_second(waiting: Instance) -> None:
    """One time in ten is enough: a busy machine may hold everything up for longer."""
    config = load_config(waiting.folder / "atenea.toml")

    def seconds_to_show(name: str) -> float:
        waiting.drop(f"{name}.txt", "Hello.")
        running(waiting, name)
        waiting.atenea("cancel", name)
        began = time.monotonic()
        wait_until(lambda: look(config, "show", job=name)["state"] == "cancelled", f"{name} to be cancelled")
        return time.monotonic() - began

    assert any(seconds_to_show(f"job{number}") < 1 for number in range(10))
