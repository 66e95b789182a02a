-- From version 1 or 2 to 3.
ALTER TABLE running ADD COLUMN wake INTEGER NOT NULL DEFAULT 0;
CREATE INDEX running_by_wake ON running (wake);

ALTER TABLE threads ADD COLUMN parent TEXT NOT NULL DEFAULT '';
ALTER TABLE threads ADD COLUMN forked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN limits TEXT NOT NULL DEFAULT '';

-- Open questions to people, derived from the events.
CREATE TABLE questions (
    thread INTEGER NOT NULL,           -- threads.no
    seq    INTEGER NOT NULL,           -- number of the event that asked
    time   INTEGER NOT NULL,           -- when it was asked, in milliseconds since 1970
    until  INTEGER NOT NULL,           -- when it expires, in milliseconds since 1970; 0 never
    PRIMARY KEY (thread, seq)
) WITHOUT ROWID;
CREATE INDEX questions_by_until ON questions (until) WHERE until > 0;

-- What each thread has put on the account of a key; what threads that are gone have put there stands under 0.
CREATE TABLE accounts (
    key          TEXT NOT NULL,
    thread       INTEGER NOT NULL,     -- threads.no, or 0
    money        INTEGER NOT NULL,     -- settled and reserved, in billionths
    tokens       INTEGER NOT NULL,
    steps        INTEGER NOT NULL,
    tool_calls   INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    PRIMARY KEY (key, thread)
) WITHOUT ROWID;
CREATE INDEX accounts_by_thread ON accounts (thread);

UPDATE meta SET value = '3' WHERE name = 'schema';
