"""A cache that may not be written: the daemon says so when it starts, and a job that needs it when it fails."""

from __future__ import annotations

import subprocess

from faults.small_disk import small_disk
from system.conftest import new_instance
from system.instance import NewInstance

__all__ = ["new_instance"]

KEEPER = """
@hookimpl
def render(job, wav, ctx):
    (ctx.cache / "kept").write_text("for later")
"""


def test_a_read_only_cache_is_named_with_what_to_do(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'keeper'\n")
    instance.plugin("keeper", KEEPER)
    cache = instance.folder / "cache"
    with small_disk(cache):
        (cache / "keeper").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)

        def sentence(folder: object) -> str:
            return (
                f"{folder} cannot be read and written by root: {folder} is on a file system that is mounted read-only; "
                "let that user do it (chown, chmod), or set paths.cache to another folder"
            )

        instance.start()
        (told,) = instance.events("a cache cannot be written; jobs do without it, or fail")
        assert (told["level"], told["error"]) == ("warning", sentence(cache))
        instance.drop("hello.txt", "Hello.")
        answer = instance.output("hello.error.txt").read_text()
        assert answer.partition("\n")[0] == f"render plugin 'keeper': {sentence(cache / 'keeper')}"
        assert "Traceback" not in answer
        instance.stop()
