"""Uses the published Python client against the server of OPENCOMPUTER_API_URL. Prints a line of JSON for each step."""

import asyncio
import json
import time
import traceback

import httpx
from opencomputer import Image, Sandbox, Snapshots


def report(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


async def step(name, work, value_of=lambda result: result):
    began = time.monotonic()
    try:
        result = await work
        report(name, value=value_of(result), seconds=round(time.monotonic() - began, 2))
        return result
    except Exception:
        report(name, error=traceback.format_exc(), seconds=round(time.monotonic() - began, 2))


async def created(command, **wishes):
    sandbox = await Sandbox.create(**wishes)
    try:
        result = await sandbox.commands.run(command)
        assert result.exit_code == 0, result
        return result.stdout.strip()
    finally:
        await sandbox.kill()
        await sandbox.close()


async def eventually(what, check):
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if await check():
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"{what}: not within 120 s")


async def commands(sandbox):
    result = await sandbox.commands.run("echo out; echo err >&2; pwd; echo $A $B; exit 3", env={"B": "b"}, cwd="/tmp")
    return [result.exit_code, result.stdout, result.stderr]


async def files(sandbox):
    await sandbox.files.make_dir("/workspace/folder/inner")
    await sandbox.files.write("/workspace/folder/text", "grüße\n")
    await sandbox.files.write("/workspace/folder/bytes", bytes(range(256)) * 1000)
    listed = sorted((entry.name, entry.is_dir, entry.size) for entry in await sandbox.files.list("/workspace/folder"))
    text = await sandbox.files.read("/workspace/folder/text")
    whole = await sandbox.files.read_bytes("/workspace/folder/bytes") == bytes(range(256)) * 1000
    await sandbox.files.remove("/workspace/folder/text")
    return [listed, text, whole, await sandbox.files.exists("/workspace/folder/text")]


async def sessions(sandbox):
    output = []
    session = await sandbox.exec.start("cat", on_stdout=output.append)
    await session.send_stdin("through\n")
    await eventually("the output of cat", lambda: asyncio.sleep(0, b"".join(output) == b"through\n"))
    listed = [(one.command, one.running) for one in await sandbox.exec.list()]
    await session.kill()
    code = await asyncio.wait_for(session.done, 60)
    await session.close()
    shell = await sandbox.exec.shell()
    await shell.run("cd /tmp; kept=yes")
    run = await shell.run("echo $kept; pwd")
    await shell.close()
    return [listed, code, run.stdout.split()]


async def terminal(sandbox):
    output = []
    pty = await sandbox.pty.create(cols=100, rows=30, on_output=output.append)
    await pty.send("stty size; exit\n")
    await eventually("the size of the terminal", lambda: asyncio.sleep(0, b"30 100" in b"".join(output)))
    await pty.close()
    return True


async def resizing(sandbox):
    scaled = await sandbox.scale(2048)
    lock = [await sandbox.set_scaling_lock(True), await sandbox.get_scaling_lock()]
    await sandbox.set_scaling_lock(False)
    autoscale = await sandbox.set_autoscale(True, min_memory_mb=1024, max_memory_mb=4096)
    back = await sandbox.scale(1024)
    return [scaled["memoryMB"], [one["locked"] for one in lock], autoscale["enabled"], back["memoryMB"]]


async def sleeping(sandbox):
    await sandbox.commands.run("echo kept >/dev/shm/kept")
    await sandbox.hibernate()
    asleep = await sandbox.is_running()
    await sandbox.wake()
    kept = await sandbox.commands.run("cat /dev/shm/kept")
    await sandbox.set_timeout(600)
    again = await Sandbox.connect(sandbox.sandbox_id)
    running = await again.is_running()
    await again.close()
    return [asleep, kept.stdout, running]


async def checkpoints(sandbox):
    await sandbox.commands.run("echo before >/workspace/state; sync")
    made = await sandbox.create_checkpoint("one")

    async def is_ready():
        return any(one["id"] == made["id"] and one["status"] == "ready" for one in await sandbox.list_checkpoints())

    await eventually("the checkpoint is ready", is_ready)
    patch = await Sandbox.create_checkpoint_patch(made["id"], "echo patched >/workspace/patch", description="a test")
    listed = await Sandbox.list_checkpoint_patches(made["id"])
    fork = await Sandbox.create_from_checkpoint(made["id"])
    seen = (await fork.commands.run("cat /workspace/state /workspace/patch")).stdout.split()
    await fork.kill()
    await fork.close()
    await Sandbox.delete_checkpoint_patch(made["id"], listed[0]["id"])
    await sandbox.commands.run("echo after >/workspace/state")
    await sandbox.restore_checkpoint(made["id"])
    restored = (await sandbox.commands.run("cat /workspace/state")).stdout.split()
    await sandbox.delete_checkpoint(made["id"])
    return [bool(patch), len(listed), seen, restored, len(await sandbox.list_checkpoints())]


async def previews(sandbox):
    made = await sandbox.create_preview_url(8080)
    ports = [one["port"] for one in await sandbox.list_preview_urls()]
    await sandbox.delete_preview_url(8080)
    return [made["port"], ports, await sandbox.list_preview_urls()]


async def links(sandbox):
    async with httpx.AsyncClient() as client:
        up = await client.put(await sandbox.upload_url("/workspace/link"), content=b"linked")
        down = await client.get(await sandbox.download_url("/workspace/link"))
    return [up.status_code, down.text, (await sandbox.get_allowed_hosts())["egressAllowlist"]]


async def end(sandbox):
    await sandbox.kill()
    return True


async def tokens():
    sandbox = await Sandbox.create(preview_auth={"token": "auto"})
    first = sandbox.preview_auth_token
    second = await sandbox.rotate_preview_auth_token()
    await sandbox.kill()
    await sandbox.close()
    return [first != "", second not in ("", first)]


async def answers(sandbox):
    try:
        return (await sandbox.commands.run("true")).exit_code == 0
    except httpx.HTTPError:
        return False


async def booted(sandbox, restart):
    try:
        await restart
    except httpx.ReadTimeout:
        # An emulated machine of a crowded host boots for longer than the client waits.
        await eventually("the machine answers", lambda: answers(sandbox))


async def restarts(sandbox):
    await sandbox.files.write("/workspace/kept", "kept")
    await booted(sandbox, sandbox.reboot())
    first = await sandbox.files.read("/workspace/kept")
    await booted(sandbox, sandbox.power_cycle())
    return [first, await sandbox.files.read("/workspace/kept")]


async def images():
    logs = []
    image = Image.base().run_commands("echo made >/home/sandbox/made").env({"FROM_IMAGE": "yes"})
    sandbox = await Sandbox.create(image=image, on_build_log=logs.append)
    seen = (await sandbox.commands.run("cat /home/sandbox/made")).stdout.split()
    await sandbox.kill()
    await sandbox.close()
    snapshots = Snapshots()
    made = await snapshots.create("python-client", image, on_build_logs=logs.append)
    named = [one["name"] for one in await snapshots.list()]
    found = await snapshots.get("python-client")
    from_name = await Sandbox.create(snapshot="python-client")
    again = (await from_name.commands.run("cat /home/sandbox/made")).stdout.split()
    await from_name.kill()
    await from_name.close()
    await snapshots.delete("python-client")
    await snapshots.close()
    return [len(logs) > 0, seen, made["status"], named, found["name"], again]


async def main():
    for disk_mb in [20480, 30720, 262144]:
        await step(f"disk {disk_mb}", created("df --output=size -BM /workspace | tail -1 | tr -dc 0-9", disk_mb=disk_mb))
    memory = "awk '/^MemTotal/ { print $2 }' /proc/meminfo; cat /sys/fs/cgroup/sandbox/memory.max"
    for memory_mb in [512, 2048, 8192]:
        await step(f"memory {memory_mb}", created(memory, memory_mb=memory_mb))
    created_with = {"envs": {"A": "a"}, "metadata": {"from": "python"}}
    sandbox = await step("create", Sandbox.create(**created_with), lambda made: made.sandbox_id != "")
    for name, work in [
        ("commands", commands),
        ("files", files),
        ("sessions", sessions),
        ("terminal", terminal),
        ("resizing", resizing),
        ("sleeping", sleeping),
        ("checkpoints", checkpoints),
        ("previews", previews),
        ("links", links),
        ("restarts", restarts),
    ]:
        await step(name, work(sandbox))
    await step("delete", end(sandbox))
    await step("tokens", tokens())
    await step("images", images())
    report("ended")


asyncio.run(main())
