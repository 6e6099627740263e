import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import { GuestClient } from "./guest-client.ts";
import { guestSessions } from "./guest-sessions.ts";

const never = new AbortController().signal;

test("a guest that stops responding is given up after a deadline, and serves again once it runs on", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-guest-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(directory, { recursive: true }));
  const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
  const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
  const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
  const spec = { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing };
  const machine = undo.use(await hypervisor.boot(spec, never));
  const watched = undo.use(
    await GuestClient.connect(machine.agentTransport, { silenceLimits: { pingAfterMs: 300, giveUpAfterMs: 900 } }),
  );
  const run = async (line: string): Promise<string> => {
    const kept = { purpose: "private", keepOutput: false, whenDetached: "kill", transient: true } as const;
    const request = { id: randomHex(8), command: { argv: ["/bin/sh", "-c", line] }, ...kept };
    const { output } = await guestSessions(() => watched).run(request, never);
    let said = "";
    for await (const part of output) if (part !== "scrollback end") said += Buffer.from(part.bytes).toString();
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
