"""Plugins that use up the memory: ended by the daemon at its limit, or really by the kernel; the others go on."""

from __future__ import annotations

import pytest
from executor.conftest import Bench, bench
from faults.cgroups import limited_memory
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance

from atenea.executor import Done, Failed

__all__ = ["bench", "new_instance"]

LEAK = """
kept = []
while len(kept) < 80:
    kept.append(bytearray(b'x') * (20 << 20))
    ctx.progress(0.5)
    time.sleep(0.02)
time.sleep(600)
"""

IN_A_CHILD = """
leak = "kept = [(bytearray(b'x') * (20 << 20), time.sleep(0.02)) for _ in range(80)]"
child = subprocess.Popen([sys.executable, '-c', f'import time; {leak}; time.sleep(600)'])
(ctx.workdir / 'child').write_text(str(child.pid))
child.wait()
"""

IN_ITS_OWN_GROUP = IN_A_CHILD.replace("600)'])", "600)'], process_group=0)")
assert "process_group" in IN_ITS_OWN_GROUP

SHARED = """
kept = bytearray(b'x') * (100 << 20)
if not all(os.fork() for _ in range(9)):
    time.sleep(600)
for _ in range(16):
    ctx.progress(0.5)
    time.sleep(0.1)
p = ctx.workdir / 'speech.wav'
p.write_text('x')
return p
"""


@pytest.mark.parametrize(
    "leak", [LEAK, IN_A_CHILD, IN_ITS_OWN_GROUP], ids=["itself", "in a child", "in a group of its own"]
)
def test_a_worker_over_the_limit_is_ended(bench: Bench, leak: str) -> None:
    bench.configure(limits={"memory_gigabytes": 0.5})
    bench.plugin("bad", leak)
    bench.plugin("good", "p = ctx.workdir / 'x'; p.write_text('x'); return p")
    bad, good = bench.run(bench.task("bad"), bench.task("good"))
    assert isinstance(bad, Failed)
    assert bad.error.startswith("the worker of tts plugin 'bad' used ")
    assert bad.error.endswith(" MB of memory and was ended; raise limits.memory_gigabytes if it needs so much")
    assert (bad.transient, bad.worker_died) == (True, True)
    assert isinstance(good, Done)
    if leak is not LEAK:
        assert not bench.running(int(bench.written("bad", "child")))


def test_memory_that_forks_share_counts_once(bench: Bench) -> None:
    """Ten processes that share 100 MB."""
    bench.configure(limits={"memory_gigabytes": 0.6})
    bench.plugin("good", SHARED)
    assert isinstance(bench.run(bench.task("good")), Done)


def test_the_kernel_ends_a_worker(new_instance: NewInstance) -> None:
    """Not the daemon, which is in the same group."""
    instance: Instance = new_instance("[render]\nplugin = 'stub'\n[retry]\nfirst_seconds = 0.1\nworker_deaths = 1\n")
    instance.plugin("stub", RENDER_STUB)
    body = LEAK.replace("\n", "\n    ")
    instance.plugin("leaky", f"import time\n@hookimpl\ndef tts(job, ctx):{body}")
    with limited_memory(400 << 20) as group:
        instance.start()
        assert instance.process
        (group / "cgroup.procs").write_text(str(instance.process.pid))
        instance.drop("leaky.toml", "text = 'Hello.'\n[tts]\nplugin = 'leaky'\n")
        error = instance.output("leaky.error.txt").read_text().partition("\n")[0]
        assert error.endswith(
            "the worker of tts plugin 'leaky' was killed by signal 9, probably for want of memory (see dmesg)"
            " (given up after 1 attempts)"
        )
        outcomes = [attempt["outcome"] for attempt in instance.job("leaky")["attempts"] if attempt["stage"] == "tts"]
        assert outcomes == ["died"]
        instance.drop("hello.txt", "Hello.")
        instance.output("hello.mp4")
        assert instance.stop() == 0
