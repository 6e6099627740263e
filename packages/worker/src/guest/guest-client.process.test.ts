import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import { GuestClient } from "./guest-client.ts";
import { startExec } from "./guest-exec.ts";

const never = new AbortController().signal;

test("a guest that stands still is given up by a deadline, and is there again when it goes on", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-guest-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(directory, { recursive: true }));
  const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
  const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
  const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
  const spec = { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing };
  const machine = undo.use(await hypervisor.boot(spec, never));
  const watched = undo.use(await GuestClient.connect(machine.agentSocket, { askMs: 300, leaveMs: 900 }));
  const run = async (line: string): Promise<string> => {
    const { output } = await startExec(watched, { argv: ["/bin/sh", "-c", line] }, never);
    let said = "";
    for await (const { bytes } of output) said += Buffer.from(bytes).toString();
    return said;
  };
  assert.equal(await run("sleep 2; echo silence is no standstill"), "silence is no standstill\n");

  const standing = run("echo begun; sleep 60");
  await machine.pause();
  const unanswered = (error: unknown): boolean =>
    isSandboxError(error, "unavailable") && error.message.startsWith("the guest has said nothing");
  await assert.rejects(standing, unanswered);
  await assert.rejects(watched.ping(never), unanswered);
  await machine.resume();
  await watched.ping(never);
});
