PRAGMA application_id = 2003202670;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
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
INSERT INTO "attempts" VALUES(1,'completed','c',1,1,1.5,NULL,NULL);
INSERT INTO "attempts" VALUES(2,'failed','c',1,1,1.5,NULL,NULL);
INSERT INTO "attempts" VALUES(3,'cancelled','c',1,1,1.5,NULL,NULL);
INSERT INTO "attempts" VALUES(4,'pending','c',1,1,1.5,NULL,NULL);
INSERT INTO "attempts" VALUES(5,'running','c',1,1,1.5,NULL,NULL);
CREATE TABLE events (
    id     INTEGER PRIMARY KEY,
    run_id TEXT REFERENCES runs (run_id) ON DELETE CASCADE,
    target TEXT,
    at     REAL NOT NULL,
    kind   TEXT NOT NULL,
    data   TEXT                           -- a JSON object
);
INSERT INTO "events" VALUES(1,'pending',NULL,1.79526354162121725083e+09,'released',NULL);
INSERT INTO "events" VALUES(2,NULL,'m:f',1.79526354162240910526e+09,'skipped','{"holder":"running"}');
CREATE TABLE logs (
    id     INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path   TEXT,                          -- of the step; NULL: outside of every step
    at     REAL NOT NULL,
    level  TEXT NOT NULL,
    event  TEXT NOT NULL,
    fields TEXT                           -- a JSON object
);
INSERT INTO "logs" VALUES(1,'completed','a',1.5,'info','e','{"n":1}');
INSERT INTO "logs" VALUES(2,'failed','a',1.5,'info','e','{"n":1}');
INSERT INTO "logs" VALUES(3,'cancelled','a',1.5,'info','e','{"n":1}');
INSERT INTO "logs" VALUES(4,'pending','a',1.5,'info','e','{"n":1}');
INSERT INTO "logs" VALUES(5,'running','a',1.5,'info','e','{"n":1}');
CREATE TABLE owners (
    owner      TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    boot_id    TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL
);
INSERT INTO "owners" VALUES('vm-3804-a7ae8c441c8b','vm','81be4fff-38aa-495b-9446-189eafba55fc',3804,1.79526354161518311497e+09);
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
, tags TEXT);
INSERT INTO "runs" VALUES('completed','f',NULL,NULL,NULL,'completed','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'completed','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79526354161505675315e+09,1.79526354161505675315e+09,1.79526354161742663379e+09,NULL);
INSERT INTO "runs" VALUES('failed','f',NULL,NULL,NULL,'failed','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'failed','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79526354161768865588e+09,1.79526354161768865588e+09,1.79526354161876511576e+09,NULL);
INSERT INTO "runs" VALUES('cancelled','f',NULL,NULL,NULL,'cancelled','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'cancelled','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79526354161900758739e+09,1.79526354161900758739e+09,1.79526354162002325055e+09,NULL);
INSERT INTO "runs" VALUES('pending','f',NULL,NULL,NULL,'pending','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'pending',NULL,NULL,NULL,1,NULL,1.79526354162020397187e+09,1.79526354162020397187e+09,NULL,NULL);
INSERT INTO "runs" VALUES('running','f',NULL,NULL,NULL,'running','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'running',NULL,NULL,'vm-3804-a7ae8c441c8b',1,NULL,1.7952635416214237213e+09,1.7952635416214237213e+09,NULL,NULL);
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
INSERT INTO "steps" VALUES('cancelled','a',1,'step','a',1,1,'completed',NULL,'"a"',1.0,2.0);
INSERT INTO "steps" VALUES('cancelled','b',3,'step','b',1,1,'completed',NULL,'"b"',1.0,2.0);
INSERT INTO "steps" VALUES('cancelled','b/items[0]',2,'item','b/items[0]',1,1,'completed',NULL,'"b/items[0]"',1.0,2.0);
INSERT INTO "steps" VALUES('completed','a',1,'step','a',1,1,'completed',NULL,'"a"',1.0,2.0);
INSERT INTO "steps" VALUES('completed','b',3,'step','b',1,1,'completed',NULL,'"b"',1.0,2.0);
INSERT INTO "steps" VALUES('completed','b/items[0]',2,'item','b/items[0]',1,1,'completed',NULL,'"b/items[0]"',1.0,2.0);
INSERT INTO "steps" VALUES('failed','a',1,'step','a',1,1,'completed',NULL,'"a"',1.0,2.0);
INSERT INTO "steps" VALUES('failed','b',3,'step','b',1,1,'completed',NULL,'"b"',1.0,2.0);
INSERT INTO "steps" VALUES('failed','b/items[0]',2,'item','b/items[0]',1,1,'completed',NULL,'"b/items[0]"',1.0,2.0);
INSERT INTO "steps" VALUES('pending','a',1,'step','a',1,1,'completed',NULL,'"a"',1.0,2.0);
INSERT INTO "steps" VALUES('pending','b',3,'step','b',1,1,'completed',NULL,'"b"',1.0,2.0);
INSERT INTO "steps" VALUES('pending','b/items[0]',2,'item','b/items[0]',1,1,'completed',NULL,'"b/items[0]"',1.0,2.0);
INSERT INTO "steps" VALUES('running','a',1,'step','a',1,1,'completed',NULL,'"a"',1.0,2.0);
INSERT INTO "steps" VALUES('running','b',3,'step','b',1,1,'completed',NULL,'"b"',1.0,2.0);
INSERT INTO "steps" VALUES('running','b/items[0]',2,'item','b/items[0]',1,1,'completed',NULL,'"b/items[0]"',1.0,2.0);
CREATE UNIQUE INDEX runs_by_key ON runs (flow, idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_flow ON runs (flow, created_at);
CREATE INDEX attempts_by_run ON attempts (run_id, path);
CREATE INDEX runs_by_target ON runs (target, created_at);
CREATE INDEX runs_by_batch ON runs (batch_id, created_at) WHERE batch_id IS NOT NULL;
CREATE INDEX logs_by_run ON logs (run_id, id);
CREATE INDEX events_by_run ON events (run_id, id);
CREATE INDEX events_by_target ON events (target, id) WHERE target IS NOT NULL;
COMMIT;
