"""A ledger of acknowledged writes: a file of lines with checksums, each on disk before the next write begins."""

import json
import os
import zlib

HOME = "/home/sandbox/torture"
# On the other disk.
SYSTEM = "/var/tmp/torture"


class Ledger:
    def __init__(self, name):
        os.makedirs(HOME, exist_ok=True)
        self.file = os.open(f"{HOME}/{name}.ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def acknowledge(self, entry):
        text = json.dumps(entry, separators=(",", ":"))
        os.write(self.file, f"{zlib.crc32(text.encode()):08x} {text}\n".encode())
        os.fdatasync(self.file)


def read(name):
    """All complete entries. Only the last line may be cut off, by a reader that arrives during a write."""
    try:
        with open(f"{HOME}/{name}.ledger", "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for number, line in enumerate(lines[:-1]):
        crc, _, text = line.partition(b" ")
        if f"{zlib.crc32(text):08x}".encode() != crc:
            raise ValueError(f"line {number + 1} of the ledger {name} is damaged: {line[:80]!r}")
        entries.append(json.loads(text))
    return entries
