"""Commits continuously, with a new repository every hundred commits."""

import os
import shutil
import subprocess

from ledger import HOME, Ledger

COMMITS = 100


def git(repository, *arguments):
    command = ["git", "-C", repository, "-c", "user.name=t", "-c", "user.email=t@t", "-c", "gc.auto=0", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main():
    ledger = Ledger("git")
    number = 0
    while True:
        number += 1
        repository = f"{HOME}/git-{number}"
        os.makedirs(repository)
        git(repository, "init", "-q")
        if number > 2:
            oldest = f"{HOME}/git-{number - 2}"
            ledger.acknowledge(["drop", oldest])
            shutil.rmtree(oldest)
        for commit in range(COMMITS):
            with open(f"{repository}/file-{commit % 7}", "wb") as file:
                file.write(os.urandom(2000))
            git(repository, "add", "-A")
            git(repository, "commit", "-q", "-m", f"commit {commit}")
            ledger.acknowledge(["commit", repository, git(repository, "rev-parse", "HEAD")])


if __name__ == "__main__":
    main()
