"""What the published Python client of E2B relies on, without asyncio. Fails with an exception."""

import time

from e2b import CommandExitException, NotFoundException, PtySize, Sandbox, SandboxQuery, TimeoutException


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


sandbox = Sandbox.create(envs={"FROM_CREATE": "yes"}, metadata={"a b": "c&d"}, timeout=120)
assert sandbox.is_running()

result = sandbox.commands.run('echo "$FROM_CREATE"; echo err >&2')
assert (result.stdout, result.stderr, result.exit_code) == ("yes\n", "err\n", 0), result
assert raises(CommandExitException, lambda: sandbox.commands.run("exit 3")).exit_code == 3
raises(TimeoutException, lambda: sandbox.commands.run("sleep 100", timeout=1))

command = sandbox.commands.run("cat", background=True, stdin=True)
sandbox.commands.send_stdin(command.pid, "line\n")
assert any(process.pid == command.pid for process in sandbox.commands.list())
assert next(iter(command))[0] == "line\n"
assert command.kill()

assert sandbox.files.write("dir/a.txt", "content").name == "a.txt"
assert sandbox.files.read("dir/a.txt") == "content"
assert [entry.name for entry in sandbox.files.list("dir")] == ["a.txt"]
assert sandbox.files.get_info("dir/a.txt").size == 7
assert sandbox.files.make_dir("dir/sub") and not sandbox.files.make_dir("dir/sub")
sandbox.files.rename("dir/a.txt", "dir/b.txt")
assert sandbox.files.exists("dir/b.txt") and not sandbox.files.exists("dir/a.txt")

watch = sandbox.files.watch_dir("dir")
sandbox.files.write("dir/c.txt", "x")
deadline = time.monotonic() + 30
seen = []
while "c.txt" not in seen:
    assert time.monotonic() < deadline, f"the file was not reported within 30 s: {seen}"
    seen += [event.name for event in watch.get_new_events()]
    time.sleep(0.1)
watch.stop()
sandbox.files.remove("dir")
raises(NotFoundException, lambda: sandbox.files.read("dir/none"))

terminal = sandbox.pty.create(size=PtySize(rows=24, cols=80))
sandbox.pty.send_stdin(terminal.pid, b"exit 0\n")
assert terminal.wait().exit_code == 0

pages = Sandbox.list(query=SandboxQuery(metadata={"a b": "c&d"}))
assert [item.sandbox_id for item in pages.next_items()] == [sandbox.sandbox_id] and not pages.has_next
before = sandbox.get_info().end_at
sandbox.set_timeout(300)
assert sandbox.get_info().end_at > before
assert Sandbox.connect(sandbox.sandbox_id).commands.run("echo again").stdout == "again\n"
assert sandbox.kill() and not sandbox.kill() and not sandbox.is_running()
