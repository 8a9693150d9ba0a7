"""Plugins that do to their worker whatever a process can suffer: the outcome says it, and the next task runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from atenea.executor import Done, Failed

CHILD = "child = subprocess.Popen(['sleep', '3600'])\n(ctx.workdir / 'child').write_text(str(child.pid))\n"
HERE = "(ctx.workdir / 'here').touch()\n"
GOOD = "p = ctx.workdir / 'speech.wav'; p.write_text(str(os.getpid())); return p"
FAKE_TORCH = "class {name}(RuntimeError): __module__ = 'torch'\nraise {name}('CUDA error: {text}')"

RAISED = {
    "value": ("raise ValueError('no\\n voice')", "tts plugin 'bad' failed: ValueError: no voice", False),
    "exit": ("sys.exit(3)", "tts plugin 'bad' failed: SystemExit: 3", False),
    "interrupt": ("raise KeyboardInterrupt", "tts plugin 'bad' failed: KeyboardInterrupt", False),
    "permanent": ("raise PermanentError('no key; set it')", "tts plugin 'bad': no key; set it", False),
    "network": (
        "raise ConnectionResetError(104, 'reset')",
        "failed: ConnectionResetError: [Errno 104] reset",
        True,
    ),
    "timeout": ("raise TimeoutError", "tts plugin 'bad' failed: TimeoutError", True),
    "full": ("raise OSError(28, 'No space left')", "failed: OSError: [Errno 28] No space left", True),
    "denied": ("raise OSError(13, 'denied')", "failed: PermissionError: [Errno 13] denied", False),
    "memory": ("raise MemoryError", "tts plugin 'bad' failed: MemoryError", True),
    "gpu memory": (
        FAKE_TORCH.format(name="OutOfMemoryError", text="out of memory"),
        "OutOfMemoryError",
        True,
    ),
    "cancelled": (
        "from atenea.errors import Cancelled; raise Cancelled",
        "raised Cancelled, but nobody cancelled it",
        False,
    ),
    "outside": (
        "return '/etc/passwd'",
        "tts plugin 'bad': returned a path outside its work folder: /etc/passwd",
        False,
    ),
    "above": ("return ctx.workdir / '..' / 'x'", "returned a path outside its work folder", False),
    "folder": ("return ctx.workdir", "is no regular file", False),
    "none": ("return None", "tts plugin 'bad': returned NoneType instead of the path of a file", False),
    "missing": ("return ctx.workdir / 'x.wav'", "returned the path of a file that is not there", False),
    "empty": ("p = ctx.workdir / 'x'; p.touch(); return p", "returned an empty file", False),
    "symlink": ("p = ctx.workdir / 'l'; p.symlink_to('/etc/passwd'); return p", "is no regular file", False),
    "linked folder": (
        "p = ctx.workdir / 'd'; p.symlink_to('/etc'); return p / 'passwd'",
        "outside its work folder",
        False,
    ),
    "fifo": ("p = ctx.workdir / 'f'; os.mkfifo(p); return p", "is no regular file", False),
    "attachment": (
        f"ctx.attachments['.x'] = '/etc/passwd'\n{GOOD}",
        "returned a path outside its work folder",
        False,
    ),
    "report": (
        f"ctx.report['x'] = object()\n{GOOD}",
        "put something into ctx.report that JSON cannot hold",
        False,
    ),
    "long report": (f"ctx.report['x'] = 'x' * 10**6\n{GOOD}", "bytes into ctx.report", False),
    "unspeakable": (
        "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
        "tts plugin 'bad' failed: E",
        False,
    ),
    "surrogate": ("raise ValueError('\\ud800')", "ValueError: \\ud800", False),
    "huge": ("raise ValueError('x' * 10**7)", "ValueError: xxx", False),
}


def test_what_hooks_raise_and_return(bench):
    """One worker suffers them all."""
    for name, (body, _, _) in RAISED.items():
        bench.plugin("bad", body) if name == "value" else bench.plugin(name.replace(" ", "-"), body)
    bench.plugin("good", GOOD)
    names = ["bad" if name == "value" else name.replace(" ", "-") for name in RAISED]
    *outcomes, good = bench.run(*(bench.task(name) for name in [*names, "good"]))
    for name, plugin, outcome in zip(RAISED, names, outcomes, strict=True):
        _, error, transient = RAISED[name]
        assert isinstance(outcome, Failed), name
        assert error.replace("'bad'", repr(plugin)) in outcome.error, name
        assert outcome.error.startswith(f"tts plugin {plugin!r}"), name
        assert "\n" not in outcome.error, name
        assert outcome.transient is transient, name
        assert not outcome.worker_died, name
        assert len(outcome.details) < 20_000, name
        outcome.error.encode()
    assert "raise ValueError('no\\n voice')" in outcomes[0].details
    assert isinstance(good, Done)


def test_retry_after(bench):
    bench.plugin("bad", "raise TransientError('too many requests', retry_after=7)")
    outcome = bench.run(bench.task("bad"))
    assert (outcome.error, outcome.transient, outcome.retry_after) == (
        "tts plugin 'bad': too many requests",
        True,
        7.0,
    )


def test_a_poisoned_worker_is_not_used_again(bench):
    bench.plugin(
        "bad",
        "(ctx.workdir / 'speech.wav').write_text(str(os.getpid()))\n"
        + FAKE_TORCH.format(name="AcceleratorError", text="an illegal memory access was encountered"),
    )
    bench.plugin("good", GOOD)
    bad, good = bench.run(bench.task("bad"), bench.task("good"))
    assert bad.transient
    assert isinstance(good, Done)
    assert bench.written("bad") != bench.written("good")


DEATHS = {
    "os._exit(3)": "ended with exit code 3",
    "os.kill(os.getpid(), signal.SIGKILL)": "was killed by signal 9, probably for want of memory (see dmesg)",
    "os.kill(os.getpid(), signal.SIGSEGV)": "was killed by signal 11 (Segmentation fault)",
    # A thread still reads from the closed socket, so nothing shows but silence.
    "os.closerange(3, 20)\ntime.sleep(3600)": "said nothing for 2 s and was ended",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_worker_that_dies(bench, death):
    bench.configure(limits={"silence_seconds": 2.0 if "closerange" in death else 60.0})
    bench.plugin("bad", f"{CHILD}print('last words', flush=True)\n{death}")
    bench.plugin("good", GOOD)
    bad, good = bench.run(bench.task("bad"), bench.task("good"))
    assert bad.error == f"the worker of tts plugin 'bad' {DEATHS[death]}"
    assert "last words" in bad.details
    assert bad.transient
    assert bad.worker_died
    assert isinstance(good, Done)
    assert not bench.running(int(bench.written("bad", "child")))


@pytest.mark.parametrize(
    "sent",
    ["b'{]' + b'\\n'", "b'[' * 10**5 + b'\\n'", "b'[1]\\n'", "b'x' * 2**21", 'b\'{"event": "done"}\\n\''],
)
def test_garbage_on_the_socket(bench, sent):
    bench.plugin("bad", f"import socket\nsocket.socket(fileno=int(sys.argv[1])).sendall({sent})\ntime.sleep(3600)")
    outcome = bench.run(bench.task("bad"))
    assert outcome.error.startswith("the worker of tts plugin 'bad' sent a ")
    assert outcome.worker_died


def test_a_plugin_that_hangs(bench):
    bench.configure(limits={"silence_seconds": 2.0})
    bench.plugin("bad", f"{CHILD}time.sleep(3600)")
    bench.plugin("slow", "for n in range(50): ctx.progress(n / 50); time.sleep(0.05)\n" + GOOD)
    bad, slow = bench.run(bench.task("bad"), bench.task("slow"))
    assert bad == Failed(
        "the worker of tts plugin 'bad' said nothing for 2 s and was ended",
        transient=True,
        worker_died=True,
    )
    assert isinstance(slow, Done)
    assert not bench.running(int(bench.written("bad", "child")))


def test_fields_that_are_not_a_plugins_to_set(bench):
    names = ("self", "method_name", "job", "level", "timestamp")
    event = {"event": "log", "level": "shout", "message": "hi \ud800", "fields": dict.fromkeys(names, "x")}
    sent = json.dumps(event).encode() + b"\n"
    bench.plugin("good", f"import socket\nsocket.socket(fileno=os.dup(int(sys.argv[1]))).sendall({sent})\n{GOOD}")
    assert isinstance(bench.run(bench.task("good")), Done)
    entry = next(entry for entry in bench.logs if entry["event"].startswith("hi"))
    assert entry["event"] == "hi \\ud800"
    assert entry["job"] == "1"
    assert entry["self_"] == "x"


def test_floods(bench):
    """The log stays small, the daemon responsive, and what matters comes through."""
    bench.plugin(
        "bad",
        f"""
        for n in range(20000): print('noise', n)
        for n in range(5000): ctx.log.info('noise %d', n)
        sys.stdout.write('x' * 10**6 + '\\n')
        sys.stdout.buffer.write(b'\\xff\\x00\\n')
        {GOOD}""",
    )
    assert isinstance(bench.run(bench.task("bad")), Done)
    assert len(bench.logs) < 1000
    assert sum(int(entry["event"].split()[1]) for entry in bench.logs if entry["event"].startswith("...")) > 20000
    assert max(map(len, bench.lines())) <= 4096


@pytest.mark.parametrize("last", ["print('last words')", "print('last words', end='')"])
def test_what_is_printed_last_is_the_jobs_own(bench, last):
    """One worker for all; each prints as much as a pipe holds, and ends."""
    for name in ("a", "b"):
        bench.plugin(name, f"print('x' * 60_000)\n{last}\n{GOOD}")
    outcomes = bench.run(*(bench.task(name, job_id=f"{number}-{name}") for number in range(10) for name in ("a", "b")))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    told = [entry for entry in bench.logs if entry.get("line") == "last words"]
    assert [(entry.get("job"), entry.get("plugin")) for entry in told] == [
        (f"{number}-{name}", name) for number in range(10) for name in ("a", "b")
    ]


async def cancelled(bench, executor, plugin):
    """The seconds that it took to cancel a task at work."""
    running = asyncio.create_task(executor.run(bench.task(plugin), lambda *_: None))
    await bench.until(bench.here(plugin).exists)
    began = asyncio.get_running_loop().time()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    return asyncio.get_running_loop().time() - began


def test_cancel_obeyed(bench):
    bench.plugin("a", HERE + "(ctx.workdir / 'pid').write_text(str(os.getpid()))\nwhile True: ctx.progress(0.1)")
    bench.plugin("good", GOOD)

    async def work(executor):
        assert await cancelled(bench, executor, "a") < bench.config.workers.cancel_seconds
        # The order to stop is not taken for the next task's.
        assert isinstance(await executor.run(bench.task("good"), lambda *_: None), Done)
        assert bench.written("a", "pid") == bench.written("good")

    bench.within(work)


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(3600)",
        "while True:\n    try: ctx.progress(0.1)\n    except BaseException: pass",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsubprocess.run(['sleep', '3600'])",
    ],
)
def test_cancel_ignored(bench, body):
    bench.configure(workers={"cancel_seconds": 0.3})
    bench.plugin("a", CHILD + HERE + body)

    async def work(executor):
        assert 0.3 <= await cancelled(bench, executor, "a") < 60  # not the hour that it sleeps
        assert not executor._started_with
        assert not bench.running(int(bench.written("a", "child")))

    bench.within(work)


def test_cancelled_twice_does_not_wait(bench):
    bench.plugin("a", HERE + "time.sleep(3600)")
    bench.configure(workers={"cancel_seconds": 3600})

    async def work(executor):
        running = asyncio.create_task(executor.run(bench.task("a"), lambda *_: None))
        await bench.until(bench.here("a").exists)
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([running])
        assert running.cancelled()

    bench.within(work)


def test_cancelled_while_its_worker_starts(bench):
    bench.plugin("a", GOOD)

    async def work(executor):
        running = asyncio.create_task(executor.run(bench.task("a"), lambda *_: None))
        await bench.until(lambda: executor._starting)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert not executor._started_with
        assert isinstance(await executor.run(bench.task("a"), lambda *_: None), Done)

    bench.within(work)


def test_cancelled_in_the_moment_its_worker_is_ready(bench):
    bench.plugin("a", GOOD)

    async def work(executor):
        running = asyncio.create_task(executor.run(bench.task("a"), lambda *_: None))
        (start,) = await bench.until(lambda: executor._starting)
        start.add_done_callback(lambda _: running.cancel())
        await asyncio.wait([running])
        assert running.cancelled()
        assert list(executor._idle) == list(executor._started_with) == [start.result()]

    bench.within(work)


def test_an_idle_worker_that_dies_is_replaced(bench):
    bench.plugin("a", GOOD)

    async def work(executor):
        await executor.run(bench.task("a"), lambda *_: None)
        os.kill(int(bench.written("a")), signal.SIGKILL)
        await bench.until(lambda: not executor._idle)
        assert isinstance(await executor.run(bench.task("a"), lambda *_: None), Done)

    bench.within(work)


@pytest.mark.parametrize(
    "busy",
    [
        "time.sleep(3600)",
        # A library that holds the interpreter's lock: no thread of the worker can run.
        "import ctypes; ctypes.PyDLL(None).sleep(3600)",
    ],
)
def test_workers_die_with_the_daemon(bench, tmp_path, busy):
    bench.plugin("a", f"(ctx.workdir / 'pid').write_text(str(os.getpid()))\n{CHILD}{HERE}{busy}")
    daemon = tmp_path / "daemon.py"
    daemon.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from atenea.config import Config
        from atenea.executor import Task
        from atenea.local_executor import LocalExecutor

        async def main():
            executor = LocalExecutor(Config.model_validate_json(sys.argv[1]))
            task = Task(kind="stage", needs=frozenset({"cpu"}), job_id="1", folder=sys.argv[2], stage="tts",
                plugin="a", workdir="steps/tts-a")
            await executor.run(task, lambda *_: None)

        asyncio.run(main())
        """)
    )
    arguments = [sys.executable, daemon, bench.config.model_dump_json(), bench.folder]
    with subprocess.Popen(arguments) as process:
        bench.wait_for(bench.here("a").exists)
        process.kill()
    for name in ("pid", "child"):
        pid = int(bench.written("a", name))
        bench.wait_for(lambda pid=pid: not bench.running(pid))
    assert process.returncode == -signal.SIGKILL
