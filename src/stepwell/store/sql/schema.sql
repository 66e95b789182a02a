-- The schema of version 3. Rows of `events` are never rewritten; `title` and `running` are derived from them.
-- `questions`, `accounts` and `blobs` come with their first row, each from its own file: a table or an index
-- costs a page at least. Version 1 had no blobs; version 2 knew no waiting runs, questions, forks and accounts
-- (`upgrade.sql`).

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE threads (
    no      INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    owner   TEXT NOT NULL,
    title   TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,          -- milliseconds since 1970
    expires INTEGER NOT NULL DEFAULT 0, -- milliseconds since 1970; 0 never
    parent  TEXT NOT NULL DEFAULT '',  -- the thread that it was forked from
    forked  INTEGER NOT NULL DEFAULT 0 -- number of the event up to which it was copied
);
CREATE INDEX threads_by_owner ON threads (owner, no);
CREATE INDEX threads_by_expiry ON threads (expires) WHERE expires > 0;

-- One clustered key for thread and number: no second index, and a log is one contiguous range.
CREATE TABLE events (
    id   INTEGER PRIMARY KEY,          -- threads.no << 32 | number in the thread
    time INTEGER NOT NULL,             -- milliseconds since 1970
    run  INTEGER NOT NULL,             -- number of the run's first event; 0 outside runs
    path TEXT,                         -- NULL for the run's own agent
    body TEXT NOT NULL                 -- the event as JSON
);

CREATE TABLE running (
    no   INTEGER PRIMARY KEY,          -- threads.no
    run  INTEGER NOT NULL,             -- number of the open run's first event; 0 where only messages wait
    wake INTEGER NOT NULL DEFAULT 0    -- when it has work by itself, in milliseconds since 1970; 0 now
);

CREATE TABLE key_uses (
    owner  TEXT NOT NULL,
    route  TEXT NOT NULL,
    key    TEXT NOT NULL,
    body   TEXT NOT NULL,
    thread TEXT NOT NULL,
    run    INTEGER NOT NULL,
    PRIMARY KEY (owner, route, key)
) WITHOUT ROWID;
CREATE INDEX key_uses_by_thread ON key_uses (thread);

CREATE TABLE api_keys (
    id      TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    hash    TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    limits  TEXT NOT NULL DEFAULT ''   -- as JSON; empty for none
) WITHOUT ROWID;

INSERT INTO meta VALUES ('schema', '3');
