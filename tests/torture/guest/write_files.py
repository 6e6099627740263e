"""Rewrites many small files, a directory of a hundred at a time. Each contains its expected content."""

import hashlib
import os
import sys

from ledger import HOME, Ledger

EACH = 100


def line(path, generation):
    text = f"{path} {generation}"
    return f"{text} {hashlib.sha256(text.encode()).hexdigest()}\n" * (1 + generation % 30)


def main():
    directories = max(1, int(sys.argv[1]) // EACH)
    ledger = Ledger("files")
    generation = 0
    while True:
        generation += 1
        for directory in range(directories):
            where = f"{HOME}/files/{directory}"
            os.makedirs(where, exist_ok=True)
            for name in range(EACH):
                path = f"{where}/{name}"
                with open(f"{path}.new", "w") as file:
                    file.write(line(path, generation))
                os.rename(f"{path}.new", path)
            os.sync()
            ledger.acknowledge([directory, generation])


if __name__ == "__main__":
    main()
