-- Big results. These tables come with the first of them, so that a file without any pays no page for them.

CREATE TABLE IF NOT EXISTS blobs (
    no   INTEGER PRIMARY KEY,          -- a row id, through which a part of `data` can be read
    hash TEXT NOT NULL UNIQUE,         -- SHA-256 of `data`, 64 hexadecimal digits
    data BLOB NOT NULL
);

-- A blob lives as long as a thread refers to it.
CREATE TABLE IF NOT EXISTS blob_refs (
    thread INTEGER NOT NULL,           -- threads.no
    hash   TEXT NOT NULL,              -- blobs.hash
    PRIMARY KEY (thread, hash)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blob_refs_by_hash ON blob_refs (hash);
