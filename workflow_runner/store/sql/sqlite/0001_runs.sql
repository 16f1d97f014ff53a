-- Every CHECK(typeof()) stands for a STRICT table, which needs a newer SQLite than enterprise Linux ships.
CREATE TABLE runs (
    run_id           TEXT PRIMARY KEY,
    flow             TEXT NOT NULL,
    target           TEXT,                -- where the flow can be imported from, module:attribute
    version          TEXT,
    shape            TEXT,                -- the names of a workflow's steps, to see whether the code has changed
    idem_key         TEXT,
    input            TEXT NOT NULL,
    input_hash       TEXT NOT NULL,
    overrides        TEXT,                -- params given at resume, which win over everything recorded
    batch_id         TEXT,
    partition        TEXT,
    as_of            TEXT,
    parent           TEXT,                -- the run that this one retries
    trace_id         TEXT,
    status           TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    result           TEXT,
    error            TEXT,
    owner            TEXT,
    fence            INTEGER NOT NULL DEFAULT 0 CHECK (typeof(fence) = 'integer'),
    cancel_requested TEXT,                -- the reason
    created_at       REAL NOT NULL,
    started_at       REAL,
    finished_at      REAL
);
CREATE UNIQUE INDEX runs_by_key ON runs (flow, idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_flow ON runs (flow, created_at);

-- The final outcome of each path, appended once.
CREATE TABLE steps (
    run_id      TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path        TEXT NOT NULL,
    seq         INTEGER NOT NULL CHECK (typeof(seq) = 'integer'),
    kind        TEXT NOT NULL,
    flow        TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    fence       INTEGER NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('completed', 'skipped', 'failed')),
    input_hash  TEXT,
    output      TEXT,
    started_at  REAL NOT NULL,
    finished_at REAL NOT NULL,
    PRIMARY KEY (run_id, path)
) WITHOUT ROWID;

-- Starts that must be remembered (at most once) and attempts that failed, appended.
CREATE TABLE attempts (
    id          INTEGER PRIMARY KEY,
    run_id      TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path        TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    fence       INTEGER NOT NULL,
    started_at  REAL NOT NULL,
    finished_at REAL,
    error       TEXT
);
CREATE INDEX attempts_by_run ON attempts (run_id, path);

-- Who may be probed by the lock of its file.
CREATE TABLE owners (
    owner      TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    boot_id    TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL
);
