"""Tasks in real worker processes: what they give, what they may use, how long the processes stay."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time

import pytest

from atenea.executor import Done, Failed, Task
from atenea.local_executor import catalogue

WRITE = "p = ctx.workdir / 'speech.wav'; p.write_text(%s); return p"
PID = WRITE % "str(os.getpid())"


def artifact(bench, outcome):
    assert isinstance(outcome, Done), outcome
    return (bench.folder / outcome.result["artifact"]).read_text()


def test_stage_gives_everything(bench):
    bench.source(
        "good",
        """
        __version__ = "1.2"
        class Options(PluginOptions):
            voice: str = "nova"
            speed: float = 1.0
        @hookimpl
        def tts(job, ctx):
            ctx.progress(0.25, "a quarter")
            ctx.progress(0.5)
            ctx.progress(1.0, "all")
            ctx.log.warning("low %s", "voice", event_="e", pid=1)
            print("hello")
            print("oops", file=sys.stderr)
            ctx.report["model"] = {"name": "m"}
            (ctx.workdir / "a.srt").write_text("1")
            ctx.attach(ctx.workdir / "a.srt", ".srt")
            ctx.save_timing([TimedText("hello", 0, 1)])
            (ctx.cache / "kept").write_text("k")
            path = ctx.workdir / "speech.wav"
            path.write_text(job.text + ctx.options.voice)
            return str(path)
        """,
    )
    seen = []
    outcome = bench.run(bench.task("good", options={"speed": 2}), on_progress=lambda *values: seen.append(values))
    assert artifact(bench, outcome) == "hellonova"
    assert outcome.result == {
        "artifact": "steps/tts-good/speech.wav",
        "attachments": {".srt": "steps/tts-good/a.srt"},
        "report": {"model": {"name": "m"}},
        "options": {"voice": "nova", "speed": 2.0},
        "timing": "steps/tts-good/timing.json",
        "plugin_version": "1.2",
    }
    assert seen[0] == (0.25, "a quarter")
    assert seen[-1] == (1.0, "all")
    assert bench.lines() == ["hello", "oops"]
    entry = next(entry for entry in bench.logs if entry["event"] == "low voice")
    assert entry.items() >= {"log_level": "warning", "job": "1", "stage": "tts", "plugin": "good", "pid_": 1}.items()
    assert (bench.config.paths.cache / "good" / "kept").exists()


def test_post_gets_what_earlier_stages_made(bench):
    (bench.folder / "video.mp4").write_text("video")
    (bench.folder / "timing.json").write_text('[["a", 0, 1]]')
    bench.plugin("same", "return video", stage="post")
    bench.plugin("none", "assert ctx.timing[0].text == 'a' and ctx.video == video", stage="post")
    bench.plugin("new", "p = ctx.workdir / 'new.mp4'; p.write_text(video.read_text() + '!'); return p", stage="post")
    artifacts = {"video": "video.mp4", "timing": "timing.json"}
    same, none, new = bench.run(
        *(bench.task(name, stage="post", artifacts=artifacts) for name in ("same", "none", "new"))
    )
    assert same.result["artifact"] is None
    assert none.result["artifact"] is None
    assert artifact(bench, new) == "video!"


def test_the_audio_stage_counts_its_samples(bench):
    wave = """
        import wave
        path = ctx.workdir / "a.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((%d, 2, 16000, 0, "NONE", ""))
            file.writeframes(bytes(2 * 1600))
        return path
    """
    bench.plugin("good", wave % 1, stage="audio")
    bench.plugin("bad", wave % 2, stage="audio")
    (bench.folder / "speech.mp3").write_text("sound")
    artifacts = {"speech": "speech.mp3"}
    good, bad = bench.run(*(bench.task(name, stage="audio", artifacts=artifacts) for name in ("good", "bad")))
    assert good.result["samples"] == 1600
    assert bad.error.startswith("audio plugin 'bad': a.wav is a WAV file with 16000 Hz, 2 channels")


def test_a_worker_is_used_again_by_tasks_of_the_same_needs(bench):
    bench.plugin("cpu", PID)
    bench.plugin("net", PID, needs="network")
    outcomes = bench.run(bench.task("cpu"), bench.task("net", needs="network"), bench.task("cpu"))
    first, other, again = (artifact(bench, outcome) for outcome in outcomes)
    assert first == again == bench.written("cpu")
    assert other != first


def test_one_task_at_a_time_in_a_worker_and_no_more_than_the_capacity(bench):
    # Each waits until it sees another one at work, which the third never can while two run.
    bench.plugin("a", "ctx.workdir.joinpath('here').touch()\nwhile True: ctx.progress(0.1); time.sleep(0.01)")

    async def work(executor):
        tasks = [
            asyncio.create_task(executor.run(bench.task("a", workdir=f"s/{n}"), lambda *_: None)) for n in range(3)
        ]
        await bench.until(lambda: len(list(bench.folder.glob("s/*/here"))) == 2)
        assert len(executor._started_with) == 2
        assert not tasks[2].done()
        tasks[0].cancel()
        await bench.until((bench.folder / "s/2/here").exists)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert len(executor._started_with) == 2

    bench.within(work)


def test_a_need_that_nothing_offers(bench):
    outcome = bench.run(bench.task("a", needs="publish"))
    assert outcome == Failed("tts plugin 'a' needs 'publish', which no worker of this executor has")


def test_secrets_only_with_network(bench, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-outside")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    body = WRITE % "os.environ.get('OPENAI_API_KEY', 'absent') + os.environ.get('NOTIFY_SOCKET', '')"
    bench.plugin("cpu", body)
    bench.plugin("net", body, needs="cpu,network")
    bench.plugin("tell", "raise ValueError(os.environ['OPENAI_API_KEY'])", needs="cpu,network")
    cpu, net, tell = bench.run(
        bench.task("cpu"),
        bench.task("net", needs="cpu,network"),
        bench.task("tell", needs="cpu,network"),
        secrets={"OPENAI_API_KEY": "sk-secret"},
    )
    assert artifact(bench, cpu) == "absent"
    assert artifact(bench, net) == "sk-secret"
    assert tell.error == "tts plugin 'tell' failed: ValueError: [secret]"
    assert "sk-secret" not in tell.details


def test_idle_workers_end_but_not_those_of_the_gpu(bench):
    bench.configure(workers={"idle_seconds": 0.05})
    bench.plugin("cpu", PID)
    bench.plugin("gpu", PID, needs="gpu")

    async def work(executor):
        await executor.run(bench.task("gpu", needs="gpu"), lambda *_: None)
        await executor.run(bench.task("cpu"), lambda *_: None)
        await bench.until(lambda: len(executor._started_with) == 1)
        (left,) = executor._idle
        assert str(left.pid) == bench.written("gpu")

    bench.within(work)


def test_the_card_is_free_before_another_gpu_worker_starts(bench):
    bench.plugin("one", PID, needs="gpu")
    bench.plugin("two", "assert not os.path.exists(f'/proc/{ctx.options.other}') " + "\n" + PID, needs="gpu,network")
    source = (bench.plugins / "two.py").read_text()
    bench.source("two", source + "\nclass Options(PluginOptions):\n    other: int")

    async def work(executor):
        await executor.run(bench.task("one", needs="gpu"), lambda *_: None)
        options = {"other": int(bench.written("one"))}
        outcome = await executor.run(bench.task("two", needs="gpu,network", options=options), lambda *_: None)
        artifact(bench, outcome)
        assert len(executor._started_with) == 1

    bench.within(work)


def test_reload_replaces_workers_when_their_task_is_done(bench):
    bench.plugin(
        "a",
        "ctx.workdir.joinpath('here').touch()\nwhile not ctx.workdir.joinpath('go').exists(): time.sleep(0.01)\n" + PID,
    )

    async def work(executor):
        running = asyncio.create_task(executor.run(bench.task("a"), lambda *_: None))
        workdir = bench.folder / "steps/tts-a"
        await bench.until(bench.here("a").exists)
        bench.plugin("a", WRITE % "'new'")
        bench.configure(workers={"cpu": 1})
        executor.reload(bench.config)
        (workdir / "go").touch()
        assert artifact(bench, await running).isdigit()
        assert artifact(bench, await executor.run(bench.task("a"), lambda *_: None)) == "new"
        assert executor.capacity["cpu"] == 1

    bench.within(work)


def test_close_ends_what_runs(bench):
    bench.plugin("a", "ctx.workdir.joinpath('here').touch()\ntime.sleep(3600)")

    async def work(executor):
        running = asyncio.create_task(executor.run(bench.task("a"), lambda *_: None))
        await bench.until(bench.here("a").exists)
        starting = asyncio.create_task(executor.run(bench.task("a", workdir="other"), lambda *_: None))
        await bench.until(lambda: executor._starting)
        await executor.close()
        for outcome in (await running, await starting, await executor.run(bench.task("a"), lambda *_: None)):
            assert outcome == Failed("tts plugin 'a' was stopped together with atenea", transient=True)

    bench.within(work)


def test_a_worker_that_cannot_start(bench, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    outcome = bench.run(bench.task("a"))
    assert outcome.error == "the worker of tts plugin 'a' cannot be started: No such file or directory"
    assert outcome.transient


def test_a_worker_that_ends_at_its_start(bench, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no module atenea\nexit 7\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    outcome = bench.run(bench.task("a"))
    assert outcome.error == "the worker of tts plugin 'a' cannot be started: it ended with exit code 7"
    assert outcome.details == "no module atenea"
    assert outcome.transient
    assert not outcome.worker_died


def test_unfit_jobs_and_options(bench):
    bench.plugin("a", "return 1")
    unknown, wrong, missing, stage = bench.run(
        bench.task("a", options={"voic": 1}),
        bench.task("b"),
        bench.task("a", folder=str(bench.state)),
        bench.task("a", stage="render"),
    )
    assert "tts.voic" in unknown.error
    assert wrong.error.startswith("tts stage: there is no plugin 'b'; ")
    assert "job.json is missing" in missing.error
    assert f"plugin 'a' ({bench.plugins}/a.py) has no render stage, only tts" in stage.error
    assert not any(outcome.transient for outcome in (unknown, wrong, missing, stage))


def test_catalogue_goes_on_without_the_plugins_that_hang_or_kill(bench):
    bench.plugin("good", "return 1", needs="gpu")
    bench.source("hang", "time.sleep(3600)")
    bench.source("kill", "os.kill(os.getpid(), signal.SIGKILL)")
    bench.source("quit", "os._exit(3)")
    bench.source("broken", "def")

    async def work(executor):
        listed = {info["name"]: info for info in await catalogue(executor)}
        outcome = await executor.run(bench.task("kill"), lambda *_: None)
        return listed, outcome

    listed, outcome = bench.within(work, import_seconds=3.0)
    assert listed["good"]["needs"] == ["gpu"]
    assert listed["good"]["stages"] == ["tts"]
    assert listed["good"]["refused"] is None
    assert "the worker that imported it said nothing for 3 s and was ended" in listed["hang"]["refused"]
    assert "was killed by signal 9" in listed["kill"]["refused"]
    assert "ended with exit code 3" in listed["quit"]["refused"]
    assert "is not valid Python: line 3" in listed["broken"]["refused"]
    assert "is not loaded: the worker that imported it" in outcome.error


def test_a_second_executor_waits_for_the_workers_of_the_first(bench):
    bench.plugin("a", WRITE % "'x'")
    lock = bench.state / "workers.lock"

    async def work(executor):
        await executor.run(bench.task("a"), lambda *_: None)
        later = bench.executor(lock_file=lock)
        # As if the first daemon had died: its own descriptor is closed, but a worker is left.
        os.close(executor._lock)
        executor._lock = None
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        starting = asyncio.create_task(later.start())
        await executor.close()
        async with asyncio.timeout(60):
            await starting
        await later.close()

    bench.within(work, lock_file=lock)


def test_failed_steps_of_the_daemons_own(bench):
    intake, mux = bench.run(
        *(Task(kind=k, needs=frozenset({"cpu"}), folder=str(bench.folder)) for k in ("intake", "mux"))
    )
    assert intake.error.startswith("reading the job failed: KeyError")
    assert "Traceback" in intake.details
    assert mux.error.startswith("adding the speech to the video failed: KeyError")


def test_progress_is_limited_but_the_last_word_comes(bench):
    bench.plugin("a", "for n in range(20001): ctx.progress(n / 20000, str(n))\n" + PID)
    seen = []
    began = time.monotonic()
    artifact(bench, bench.run(bench.task("a"), on_progress=lambda *values: seen.append(values)))
    assert len(seen) <= 10 * (time.monotonic() - began) + 2
    assert seen[-1] == (1.0, "20000")
