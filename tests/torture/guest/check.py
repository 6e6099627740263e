"""
Checks that a machine is intact while its writers write, and prints the result as JSON: {"failures": [...],
"acknowledged": {...}}. The argument is JSON: {"known": the entries acknowledged earlier, "last": whether this is the
final check}. `last` stops the writers and checks the file systems. Run as root.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import ledger
import write_files
import write_sqlite

WRITERS = ("write_sqlite.py", "write_blocks.py", "write_files.py", "write_git.py", "count.py")
failures = []


def require(condition, message):
    if not condition:
        failures.append(message)


def acknowledged():
    return {
        "sqlite": len(ledger.read("sqlite")),
        "blocks": len(ledger.read("blocks")),
        "files": len(ledger.read("files")),
        "git": len(ledger.read("git")),
        "count": counted(),
    }


def counted():
    try:
        with open("/dev/shm/counted") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def check_kernel():
    messages = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    bad = re.compile(r"EXT4-fs (error|warning)|corrupt|I/O error|hung task|BUG:|\bOops\b|soft lockup", re.I)
    for line in messages.splitlines():
        require(not bad.search(line), f"the kernel says: {line}")


def check_sqlite():
    entries = ledger.read("sqlite")
    require(entries == list(range(1, len(entries) + 1)), "rows were acknowledged out of order")
    if not entries:
        return
    # All checks see one moment of the database, with every row that was acknowledged before it.
    database = sqlite3.connect(f"file:{ledger.HOME}/rows.sqlite", uri=True, isolation_level=None)
    database.execute("BEGIN")
    rows = {n: (content, sha) for n, content, sha in database.execute("SELECT n, content, sha FROM rows")}
    result = database.execute("PRAGMA integrity_check").fetchall()
    require(result == [("ok",)], f"SQLite finds {result[:3]}")
    newest = max(rows, default=0)
    for n in range(max(1, newest - write_sqlite.WINDOW + 1), entries[-1] + 1):
        require(n in rows, f"row {n} of {entries[-1]} that were acknowledged is not there")
    for n, (content, sha) in rows.items():
        require(hashlib.sha256(content).hexdigest() == sha, f"row {n} is damaged")


def check_blocks():
    kept = {}
    for kind, name, *sha in ledger.read("blocks"):
        if kind == "add":
            kept[name] = sha[0]
        else:
            kept.pop(name, None)
    for name, sha in kept.items():
        try:
            with open(name, "rb") as file:
                require(hashlib.sha256(file.read()).hexdigest() == sha, f"{name} is damaged")
        except FileNotFoundError:
            # It may have been dropped since the ledger was read.
            dropped = [name] in [entry[1:] for entry in ledger.read("blocks") if entry[0] == "drop"]
            require(dropped, f"{name} is not there")


def check_files():
    generations = dict(ledger.read("files"))
    for directory, generation in generations.items():
        for name in range(write_files.EACH):
            path = f"{ledger.HOME}/files/{directory}/{name}"
            try:
                with open(path) as file:
                    text = file.read()
            except FileNotFoundError:
                require(False, f"{path} is not there")
                continue
            found = text.split(" ", 2)[1] if text.count(" ") > 1 else "-1"
            good = found.isdigit() and int(found) >= generation and text == write_files.line(path, int(found))
            require(good, f"{path} is damaged, or older than what was acknowledged")


def check_git():
    kept = {}
    for kind, repository, *commit in ledger.read("git"):
        if kind == "commit":
            kept.setdefault(repository, []).append(commit[0])
        else:
            kept.pop(repository, None)
    for repository, commits in kept.items():
        def run(*arguments, **options):
            command = ["git", "-c", f"safe.directory={repository}", "-C", repository, *arguments]
            return subprocess.run(command, capture_output=True, text=True, **options)

        # fsck lists the objects before it reads the references to them: a commit in between would appear to be missing.
        with standing_still("write_git.py"):
            fsck = run("fsck", "--full", "--no-dangling")
        there = run("cat-file", "--batch-check=%(objecttype)", input="".join(f"{commit}\n" for commit in commits))
        if not os.path.isdir(repository) or ["drop", repository] in ledger.read("git"):
            continue
        require(fsck.returncode == 0, f"git fsck of {repository}: {(fsck.stdout + fsck.stderr)[:400]}")
        require(there.stdout.split() == ["commit"] * len(commits), f"commits of {repository} are not there")


@contextlib.contextmanager
def standing_still(writer):
    """The writer and all its descendants."""
    groups = {os.getpgid(pid) for pid, line in processes() if writer in line}
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


def check_writers(known):
    running = command_lines()
    for writer in WRITERS:
        expected = writer != "write_git.py" or os.path.exists("/usr/bin/git")
        require(not expected or any(writer in line for line in running), f"{writer} does not run any more")
    before = counted()
    require(before >= known.get("count", 0), f"the counter went back to {before} from {known.get('count')}")
    deadline = time.monotonic() + 120
    while counted() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    require(counted() > before, f"the counter stands still at {before}")


def command_lines():
    return [line for _, line in processes()]


def processes():
    """Ids and command lines."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                found.append((int(path.split("/")[2]), file.read().decode()))
        except OSError:
            pass
    return found


def stop_writers():
    while True:
        left = [pid for pid, line in processes() if any(name in line for name in (*WRITERS, "git-")) and pid != os.getpid()]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def check_disks():
    """Writes the kernel's cached data to the disks, then checks the disks directly."""
    os.sync()
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("u")
    # The kernel drops them in the background.
    deadline = time.monotonic() + 60
    while writable_disks() and time.monotonic() < deadline:
        time.sleep(0.05)
    require(not writable_disks(), f"{writable_disks()} cannot be made read-only")
    drop_caches()
    for disk in ("/dev/vda", "/dev/vdb"):
        check_disk(disk)


def check_disk(disk):
    """
    A mounted file system lists deleted files that are still open as orphans, and a read-only e2fsck reports each as
    damage. So a copy of the file system's metadata is repaired as a mount would repair it: only the orphans that a
    process has open may be removed. A second check must then find nothing.
    """
    copy = f"/dev/shm/{os.path.basename(disk)}.image"
    subprocess.run(["e2image", "-r", disk, copy], check=True, capture_output=True)
    try:
        mended = subprocess.run(["e2fsck", "-fp", copy], capture_output=True, text=True)
        output = mended.stdout + mended.stderr
        require(mended.returncode in (0, 1), f"e2fsck of {disk}: {output[-600:]}")
        open_inodes = deleted_and_open(os.stat(disk).st_rdev)
        for line in output.splitlines():
            orphan = re.search(r"Clearing orphaned inode (\d+)", line)
            if orphan:
                require(int(orphan[1]) in open_inodes, f"{disk} has an orphan that no process has open: {line}")
            else:
                require(ORDINARY.search(line), f"e2fsck of {disk}: {line}")
        result = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True)
        require(result.returncode == 0, f"e2fsck of {disk}: {(result.stdout + result.stderr)[-600:]}")
    finally:
        os.remove(copy)


# The output of e2fsck for an intact file system. A workspace has no /lost+found: its user would see it.
ORDINARY = re.compile(r"^\s*$|recovering journal|/lost\+found not found\.  CREATED|^Setting free (inodes|blocks) count|: \d+/\d+ files ")


def deleted_and_open(device):
    """Unlinked but open inodes of a block device."""
    inodes = set()
    for path in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/exe"):
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_dev == device and found.st_nlink == 0:
            inodes.add(found.st_ino)
    return inodes


def writable_disks():
    with open("/proc/mounts") as file:
        mounts = [line.split() for line in file]
    return [where for source, where, _, options, *_ in mounts if source.startswith("/dev/vd") and "rw" in options.split(",")]


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def main():
    request = json.loads(sys.argv[1])
    known = request.get("known", {})
    os.sync()
    drop_caches()
    check_writers(known)
    present = acknowledged()
    for name, number in known.items():
        require(present[name] >= number, f"{name}: {number} were acknowledged, {present[name]} are there")
    if request.get("last"):
        stop_writers()
        drop_caches()
    checks = {
        "SQLite": check_sqlite,
        "blocks": check_blocks,
        "files": check_files,
        "Git": check_git,
    }
    for name, check in checks.items():
        try:
            check()
        except (OSError, ValueError, sqlite3.Error) as error:
            failures.append(f"{name}: {error!r}")
    if request.get("last"):
        check_disks()
    check_kernel()
    print(json.dumps({"failures": failures[:20], "acknowledged": present}))


if __name__ == "__main__":
    main()
