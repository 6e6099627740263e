"""What the published Python client of E2B relies on, with asyncio. Fails with an exception."""

import asyncio
import os

from e2b import AsyncSandbox, CommandExitException


async def main():
    sandbox = await AsyncSandbox.create(envs={"FROM_CREATE": "yes"}, timeout=120)
    pieces = []
    result = await sandbox.commands.run('echo "$FROM_CREATE"; sleep 0.2; echo two', on_stdout=pieces.append)
    assert result.stdout == "".join(pieces) == "yes\ntwo\n", result

    command = await sandbox.commands.run("cat", background=True, stdin=True)
    await sandbox.commands.send_stdin(command.pid, "line\n")
    assert await command.kill()
    try:
        await command.wait()
        raise AssertionError("a killed command has succeeded")
    except CommandExitException as error:
        assert error.exit_code == -1

    await sandbox.files.write("watched/a", "1")
    seen = asyncio.Event()
    watch = await sandbox.files.watch_dir(
        "watched", on_event=lambda event: seen.set() if event.name == "sub/b" else None, recursive=True
    )
    await sandbox.files.make_dir("watched/sub")
    await sandbox.files.write("watched/sub/b", b"2")
    await asyncio.wait_for(seen.wait(), 30)
    await watch.stop()
    assert await sandbox.files.read("watched/sub/b", format="bytes") == bytearray(b"2")

    running = asyncio.create_task(sandbox.commands.run("sleep 100"))
    while not await sandbox.commands.list():
        await asyncio.sleep(0.1)
    assert await sandbox.kill()
    try:
        await asyncio.wait_for(running, 30)
        raise AssertionError("a command has outlived its sandbox")
    except asyncio.TimeoutError:
        raise AssertionError("the client did not learn of the end within 30 s")
    except AssertionError:
        raise
    except Exception as error:
        assert "killed or reached its end of life" in str(error), error
    assert not await sandbox.is_running()


asyncio.run(main())
# The client's native runtime sometimes aborts while the interpreter ends, which is not the failure of a call.
os._exit(0)
