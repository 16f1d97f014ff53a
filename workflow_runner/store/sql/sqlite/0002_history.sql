-- Texts to find a run by, as a JSON object.
ALTER TABLE runs ADD COLUMN tags TEXT;
CREATE INDEX runs_by_target ON runs (target, created_at);
CREATE INDEX runs_by_batch ON runs (batch_id, created_at) WHERE batch_id IS NOT NULL;

-- What was logged under a run, appended in batches.
CREATE TABLE logs (
    id     INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path   TEXT,                          -- of the step; NULL: outside of every step
    at     REAL NOT NULL,
    level  TEXT NOT NULL,
    event  TEXT NOT NULL,
    fields TEXT                           -- a JSON object
);
CREATE INDEX logs_by_run ON logs (run_id, id);

-- What happened to a run, and starts that were skipped, which have none.
CREATE TABLE events (
    id     INTEGER PRIMARY KEY,
    run_id TEXT REFERENCES runs (run_id) ON DELETE CASCADE,
    target TEXT,
    at     REAL NOT NULL,
    kind   TEXT NOT NULL,
    data   TEXT                           -- a JSON object
);
CREATE INDEX events_by_run ON events (run_id, id);
CREATE INDEX events_by_target ON events (target, id) WHERE target IS NOT NULL;
