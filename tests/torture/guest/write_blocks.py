"""Writes files of random content. dd forces each to the disk before it counts. The oldest are deleted."""

import hashlib
import os
import random
import subprocess

from ledger import SYSTEM, Ledger

KEPT = 20


def main():
    ledger = Ledger("blocks")
    os.makedirs(SYSTEM, exist_ok=True)
    kept = []
    n = 0
    while True:
        n += 1
        name = f"{SYSTEM}/block-{os.getpid()}-{n}"
        content = os.urandom(random.randrange(1, 400) * 1024)
        subprocess.run(
            ["dd", f"of={name}", "bs=64k", "conv=fsync", "status=none"], input=content, check=True
        )
        ledger.acknowledge(["add", name, hashlib.sha256(content).hexdigest()])
        kept.append(name)
        if len(kept) > KEPT:
            oldest = kept.pop(0)
            ledger.acknowledge(["drop", oldest])
            os.remove(oldest)


if __name__ == "__main__":
    main()
