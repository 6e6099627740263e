"""Runs transactions in WAL mode continuously. Row n replaces row n - WINDOW."""

import hashlib
import os
import random
import sqlite3

from ledger import HOME, Ledger

WINDOW = 2000


def main():
    ledger = Ledger("sqlite")
    database = sqlite3.connect(f"{HOME}/rows.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (place INTEGER PRIMARY KEY, n INTEGER, content BLOB, sha TEXT)")
    n = database.execute("SELECT coalesce(max(n), 0) FROM rows").fetchone()[0]
    while True:
        n += 1
        content = os.urandom(random.randrange(10, 3000))
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
            (n % WINDOW, n, content, hashlib.sha256(content).hexdigest()),
        )
        database.execute("COMMIT")
        ledger.acknowledge(n)


if __name__ == "__main__":
    main()
