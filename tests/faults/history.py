"""A ledger with very many finished jobs, as they would be after months, made within seconds."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from atenea.ledger import Ledger

_FILL = """
BEGIN;
CREATE TEMP TABLE numbers AS
    WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n + 1 < :jobs)
    SELECT n FROM counted;
INSERT INTO jobs (id, name, state, position, created, started, finished, relative, source, fingerprint, content, stem,
        outputs, error, cleaned, bytes)
    SELECT printf('0%010d', n), 'job-' || (n % 1000), iif(n % 50, 'done', 'failed'), 5,
        :now - :jobs + n - 60, :now - :jobs + n - 59, :now - :jobs + n, json_quote('job-' || n || '.txt'),
        json_object('device', 7, 'inode', n, 'readings', json('[]')), hex(n), '{"inputs": {"text": "a"}}',
        'job-' || n, '{".mp4": "h", ".json": "h"}', iif(n % 50, NULL, 'it broke'), n < :jobs - :kept,
        iif(n < :jobs - :kept, 0, 20480)
    FROM numbers;
INSERT INTO steps (job_id, position, stage, plugin, needs, options, seconds, result)
    SELECT printf('0%010d', n), stage.column1, stage.column2, stage.column3, stage.column4, '{}', 1.0, stage.column5
    FROM numbers, (VALUES
        (0, 'intake', '', 'intake', '{"inputs": {"text": "a"}}'),
        (1, 'tts', 'espeak', 'cpu', '{"artifact": "work/tts/speech.wav", "options": {"voice": "en"}}'),
        (2, 'audio', 'wav', 'cpu', '{"artifact": "work/audio/speech.wav", "samples": 16000}'),
        (3, 'render', 'preview', 'cpu', '{"artifact": "work/render/preview.mp4", "options": {"fps": 25}}'),
        (4, 'mux', '', 'cpu', '{"artifact": "work/mux/video.mp4"}'),
        (5, 'publish', '', 'publish', NULL)
    ) AS stage;
INSERT INTO attempts (job_id, stage, plugin, started, ended, outcome)
    SELECT job_id, stage, plugin, :now - :jobs, :now - :jobs, 'done' FROM steps WHERE job_id IN (
        SELECT printf('0%010d', n) FROM numbers) ORDER BY job_id, position;
DROP TABLE numbers;
COMMIT;
"""


def fill(path: Path, jobs: int, kept: int = 0) -> None:
    """Enter so many finished jobs, one for each second up to now; of the last `kept` the folders are still there.

    One in fifty failed. The ledger is made if there is none.
    """
    Ledger(path).close()
    values = {"jobs": jobs, "kept": kept, "now": time.time()}
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for statement in _FILL.split(";\n"):
            db.execute(statement, values)
