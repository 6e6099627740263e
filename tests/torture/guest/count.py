"""Counts in a table of 16 MB in memory, checks the table continuously, and prints its progress."""

import array
import os

SIZE = 2_000_000
STEP = 5_000


def main():
    table = array.array("Q", bytes(8 * SIZE))
    n = 0
    while True:
        for _ in range(STEP):
            n += 1
            table[n % SIZE] = n
        # The oldest entry: a lost or stale entry is found within a round.
        for back in (1, SIZE // 3, SIZE // 2, SIZE - 1):
            if n > back and table[(n - back) % SIZE] != n - back:
                raise SystemExit(f"{n - back} is not there, but {table[(n - back) % SIZE]}")
        with open("/dev/shm/counted.new", "w") as file:
            file.write(str(n))
        os.rename("/dev/shm/counted.new", "/dev/shm/counted")


if __name__ == "__main__":
    main()
