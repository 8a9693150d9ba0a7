"""For the tests of plugins: run one stage in the test's own process, or a whole job as the daemon does.

What runs here is the daemon's own code, so what passes here passes there. Where pytest is used, the fixtures
`atenea_stage` and `atenea_job` are `run_stage` and `run_job` with the test's `tmp_path` as their folder.
"""

from atenea.testing.checks import check_plugin
from atenea.testing.inputs import write_portrait, write_speech, write_video
from atenea.testing.jobs import JobResult, run_job
from atenea.testing.stages import StageError, StageResult, diagnose, find_mistakes, run_stage

__all__ = [
    "JobResult",
    "StageError",
    "StageResult",
    "check_plugin",
    "diagnose",
    "find_mistakes",
    "run_job",
    "run_stage",
    "write_portrait",
    "write_speech",
    "write_video",
]
