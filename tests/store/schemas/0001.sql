PRAGMA application_id = 2003202670;
PRAGMA user_version = 1;
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
CREATE TABLE owners (
    owner      TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    boot_id    TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL
);
INSERT INTO "owners" VALUES('vm-16239-a5bba26024e9','vm','81be4fff-38aa-495b-9446-189eafba55fc',16239,1.79525874369120359416e+09);
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
INSERT INTO "runs" VALUES('completed','f',NULL,NULL,NULL,'completed','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'completed','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79525874369111251827e+09,1.79525874369111251827e+09,1.79525874369291281703e+09);
INSERT INTO "runs" VALUES('failed','f',NULL,NULL,NULL,'failed','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'failed','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79525874369315075872e+09,1.79525874369315075872e+09,1.79525874369393277163e+09);
INSERT INTO "runs" VALUES('cancelled','f',NULL,NULL,NULL,'cancelled','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'cancelled','[1]','{"type":"E","message":"m","notes":[],"cause":null}',NULL,1,NULL,1.79525874369411897663e+09,1.79525874369411897663e+09,1.79525874369492626186e+09);
INSERT INTO "runs" VALUES('pending','f',NULL,NULL,NULL,'pending','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'pending',NULL,NULL,NULL,1,NULL,1.79525874369511055945e+09,1.79525874369511055945e+09,NULL);
INSERT INTO "runs" VALUES('running','f',NULL,NULL,NULL,'running','{"Zürich":1}','h',NULL,'b',NULL,NULL,NULL,NULL,'running',NULL,NULL,'vm-16239-a5bba26024e9',1,NULL,1.795258743696198225e+09,1.795258743696198225e+09,NULL);
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
COMMIT;
