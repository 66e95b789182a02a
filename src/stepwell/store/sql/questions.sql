-- Open questions to people, derived from the events. This table comes with the first of them. They are few:
-- looking all of them through for the next time costs less than keeping an index.

CREATE TABLE IF NOT EXISTS questions (
    thread INTEGER NOT NULL,           -- threads.no
    seq    INTEGER NOT NULL,           -- number of the event that asked
    time   INTEGER NOT NULL,           -- when it was asked, in milliseconds since 1970
    until  INTEGER NOT NULL,           -- when it expires, in milliseconds since 1970; 0 never
    PRIMARY KEY (thread, seq)
) WITHOUT ROWID;
