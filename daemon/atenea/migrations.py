"""The ledger's schema: one script for each version, applied in order, never changed once released."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,              -- sorts by the time it was taken
        name TEXT NOT NULL,               -- the file's stem, made safe: the stem of its answers
        state TEXT NOT NULL,              -- queued, a stage, done, failed, cancelled
        preset TEXT,
        priority INTEGER NOT NULL DEFAULT 0,
        position INTEGER NOT NULL DEFAULT 0,  -- of the next step
        needs TEXT,                       -- of the next step; NULL when there is nothing more to do
        created REAL NOT NULL,            -- seconds since 1970, as all times here
        started REAL,
        finished REAL,
        not_before REAL NOT NULL DEFAULT 0,
        deaths INTEGER NOT NULL DEFAULT 0,
        relative TEXT NOT NULL,           -- JSON: path below the inbox, surrogates for bytes that are not UTF-8
        source TEXT NOT NULL,             -- JSON: device, inode of the job file as it lay in the inbox
        fingerprint TEXT NOT NULL,        -- of the original, to notice an upload that went on
        refusal TEXT,                     -- why it must be refused unread
        copied INTEGER NOT NULL DEFAULT 0,    -- taken by copy, and the inbox still holds the original
        waiting TEXT,                     -- JSON: named files that are missing or still change, and their readings
        content TEXT,                     -- JSON: hashes of what is spoken and shown
        stem TEXT,                        -- of the answers in the outbox, once chosen
        publishing TEXT,                  -- JSON: suffix to sha256 of the answers being published
        outputs TEXT,                     -- JSON: suffix to sha256 of what is in the outbox
        error TEXT,                       -- one sentence
        details TEXT,
        cleaned INTEGER NOT NULL DEFAULT 0    -- its folder is gone
    ) STRICT;
    CREATE INDEX jobs_ready ON jobs (needs, priority DESC, id, not_before) WHERE needs IS NOT NULL;
    CREATE INDEX jobs_due ON jobs (not_before) WHERE not_before > 0;
    CREATE INDEX jobs_active ON jobs (priority DESC, id, state, finished) WHERE finished IS NULL;
    CREATE INDEX jobs_finished ON jobs (finished) WHERE finished IS NOT NULL;
    CREATE INDEX jobs_uncleaned ON jobs (finished) WHERE cleaned = 0 AND finished IS NOT NULL;
    CREATE INDEX jobs_name ON jobs (name, id);
    CREATE INDEX jobs_source ON jobs (source ->> 'inode');
    CREATE INDEX jobs_copied ON jobs (copied) WHERE copied = 1;

    CREATE TABLE steps (
        job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        position INTEGER NOT NULL,
        stage TEXT NOT NULL,              -- intake, tts, audio, render, mux, post, publish
        plugin TEXT NOT NULL,
        needs TEXT NOT NULL,
        options TEXT NOT NULL,            -- JSON
        failures INTEGER NOT NULL DEFAULT 0,
        seconds REAL,
        result TEXT,                      -- JSON, once done
        PRIMARY KEY (job_id, position)
    ) STRICT;

    CREATE TABLE attempts (
        id INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        stage TEXT NOT NULL,
        plugin TEXT NOT NULL,
        started REAL NOT NULL,
        ended REAL,
        outcome TEXT,                     -- done, transient, permanent, died, cancelled, cut short
        error TEXT
    ) STRICT;
    CREATE INDEX attempts_job ON attempts (job_id, id);
    CREATE INDEX attempts_open ON attempts (ended) WHERE ended IS NULL;
    """,
    """
    ALTER TABLE jobs ADD COLUMN bytes INTEGER;  -- of its folder, since somebody looked after it was finished
    DROP INDEX jobs_uncleaned;
    CREATE INDEX jobs_kept ON jobs (finished, state, bytes, cleaned) WHERE cleaned = 0 AND finished IS NOT NULL;
    CREATE INDEX jobs_unmeasured ON jobs (finished)
        WHERE bytes IS NULL AND cleaned = 0 AND finished IS NOT NULL;
    CREATE INDEX jobs_going ON jobs (finished) WHERE cleaned = 1 AND bytes IS NOT 0;
    CREATE INDEX jobs_stem ON jobs (stem) WHERE stem IS NOT NULL;
    """,
    """
    ALTER TABLE jobs ADD COLUMN cancelling INTEGER NOT NULL DEFAULT 0;  -- its running step is being stopped
    CREATE INDEX jobs_cancelling ON jobs (cancelling) WHERE cancelling = 1;
    """,
)
