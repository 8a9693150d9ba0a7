"""Workers that hold the GPU: how long they are kept with a loaded model, and when they are replaced."""

from __future__ import annotations

import asyncio
import os

import pytest

from atenea.executor import Done
from atenea.local_executor import LocalExecutor

RENDER = "p = ctx.workdir / 'video.mp4'; p.write_text(str(os.getpid())); return p"
OUT_OF_MEMORY = "class OutOfMemoryError(RuntimeError): __module__ = 'torch'\n"


def gpu_task(bench, plugin):
    return bench.task(plugin, stage="render", needs="gpu", artifacts={"wav": "speech.wav"})


def worker_of(bench, outcome):
    assert isinstance(outcome, Done), outcome
    return int((bench.folder / outcome.result["artifact"]).read_text())


@pytest.mark.parametrize(
    ("tables", "seconds"),
    [
        ({}, 600.0),
        ({"hallo2": {"keep_loaded_seconds": 30}}, 30.0),
        ({"hallo2": {"keep_loaded_seconds": 0}}, 0.0),
        ({"hallo2": {"keep_loaded_seconds": 30}, "other": {"keep_loaded_seconds": 40.5}}, 40.5),
        ({"hallo2": {"keep_loaded_seconds": "long"}, "other": {}}, 600.0),
        ({"hallo2": {"keep_loaded_seconds": -1}}, 600.0),
    ],
)
def test_how_long_a_model_stays_loaded(bench, tables, seconds):
    bench.configure(render=tables, workers={"idle_seconds": 7.0})
    executor = LocalExecutor(bench.config)
    assert executor.keep_idle_seconds(frozenset({"gpu"})) == seconds
    assert executor.keep_idle_seconds(frozenset({"gpu", "network"})) == seconds
    assert executor.keep_idle_seconds(frozenset({"cpu"})) == 7.0


def test_the_card_is_freed_after_the_last_job(bench):
    bench.configure(render={"one": {"keep_loaded_seconds": 0.3}}, workers={"idle_seconds": 3600})
    bench.plugin("one", RENDER, stage="render", needs="gpu")
    bench.plugin("cpu", "p = ctx.workdir / 'speech.wav'; p.write_text('x'); return p")

    async def work(executor):
        first, again = [await executor.run(gpu_task(bench, "one"), lambda *_: None) for _ in range(2)]
        pid = worker_of(bench, first)
        assert worker_of(bench, again) == pid
        await executor.run(bench.task("cpu"), lambda *_: None)
        await bench.until(lambda: not bench.running(pid))
        assert len(executor._started_with) == 1
        anew = await executor.run(gpu_task(bench, "one"), lambda *_: None)
        assert worker_of(bench, anew) != pid

    bench.within(work)


def test_a_worker_at_work_is_not_ended(bench):
    bench.configure(render={"slow": {"keep_loaded_seconds": 0.01}})
    bench.plugin("slow", f"time.sleep(0.2); {RENDER}", stage="render", needs="gpu")

    async def work(executor):
        outcomes = await asyncio.gather(
            *(executor.run(gpu_task(bench, "slow"), lambda *_: None) for _ in range(2)),
        )
        assert all(isinstance(outcome, Done) for outcome in outcomes)

    bench.within(work)


@pytest.mark.parametrize(
    ("raised", "transient"),
    [
        ("raise OutOfMemoryError('CUDA out of memory')", True),
        ("raise TransientError('later') from OutOfMemoryError('CUDA out of memory')", True),
        ("raise PermanentError('never') from OutOfMemoryError('CUDA error: out of memory')", False),
    ],
)
def test_a_worker_that_used_up_the_memory_is_replaced(bench, raised, transient):
    bench.plugin(
        "greedy",
        f"(ctx.workdir / 'pid').write_text(str(os.getpid()))\n{OUT_OF_MEMORY}{raised}",
        stage="render",
        needs="gpu",
    )
    bench.plugin("one", RENDER, stage="render", needs="gpu")

    async def work(executor):
        failed = await executor.run(gpu_task(bench, "greedy"), lambda *_: None)
        assert failed.transient is transient
        assert not failed.worker_died
        greedy = int((bench.folder / "steps/render-greedy/pid").read_text())
        done = await executor.run(gpu_task(bench, "one"), lambda *_: None)
        assert worker_of(bench, done) != greedy
        assert not os.path.exists(f"/proc/{greedy}")

    bench.within(work)
