"""File work beside the event loop: nothing that it uses may be closed under it."""

from __future__ import annotations

import asyncio
import threading

from atenea.threads import in_thread


def test_however_often_it_is_cancelled_the_thread_comes_to_its_end() -> None:
    go_on = threading.Event()
    done: list[bool] = []

    def work() -> None:
        go_on.wait(60)
        done.append(True)

    async def cancel_often() -> bool:
        task = asyncio.create_task(in_thread(work))
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancel_often())
    assert done == [True]
