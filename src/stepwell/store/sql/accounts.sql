-- What each thread has put on the account of a key; what threads that are gone have put there stands under 0.
-- This table comes with the first spending on a key.

CREATE TABLE IF NOT EXISTS accounts (
    key          TEXT NOT NULL,
    thread       INTEGER NOT NULL,     -- threads.no, or 0
    money        INTEGER NOT NULL,     -- settled and reserved, in billionths
    tokens       INTEGER NOT NULL,
    steps        INTEGER NOT NULL,
    tool_calls   INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    PRIMARY KEY (key, thread)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accounts_by_thread ON accounts (thread);
