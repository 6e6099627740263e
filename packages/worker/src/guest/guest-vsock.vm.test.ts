import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { examineVsock } from "#host/examine-vsock.ts";
import { listenOnVsock } from "#host/kernel/sockets.ts";
import { runCommand } from "#host/run-command.ts";
import { vsockTransport } from "#host/vsock-transport.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import type { Vm } from "#hypervisor/hypervisor.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { vsockSockets } from "../testing/vsock-sockets.ts";
import { GuestClient } from "./guest-client.ts";
import { guestFiles } from "./guest-files.ts";

const found = examineVsock();
const skip = found.usable ? false : `${found.reason}; ./test kvm emulates a host that has it`;

const inTime = (): AbortSignal => AbortSignal.timeout(120_000);

/** The address of this host for its own processes. */
const ownCid = 1;

// The agent is a process of this host, without a machine, so the kernel carries its connection in a loop.
suite("a guest agent over vsock", { skip }, () => {
  let directory: string;
  let machine: Vm;
  let guest: GuestClient;
  const reported: string[] = [];
  const connect = async () =>
    await GuestClient.connect(vsockTransport(ownCid, join(directory, "agent.sock")), {
      report: (message, error) => reported.push(`${message}: ${String(error)}`),
    });

  before(async () => {
    await runCommand("load vsock's loop", ["modprobe", "vsock_loopback"]);
    directory = await mkdtemp(join(tmpdir(), "osb-vsock-"));
    const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
    const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
    const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
    const spec = { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing };
    machine = await hypervisor.boot(spec, inTime());
    guest = await connect();
  });
  after(async () => {
    guest?.[Symbol.dispose]();
    await machine?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  const channels = () => vsockSockets().map(({ peer }) => peer);

  test("connects from a privileged port, and the worker listens no longer", async () => {
    await guest.ping(inTime());
    const [peer, ...others] = channels();
    assert.deepEqual([peer?.cid, others, reported], [ownCid, [], []]);
    assert.ok(peer !== undefined && peer.port < 1024, `${peer?.port}`);
  });

  test("carries a file in both directions", async (t) => {
    const files = guestFiles(() => guest);
    const part = Buffer.alloc(2 ** 20, "0123456789abcdef");
    const sent = createHash("sha256");
    const content = (async function* () {
      for (let count = 0; count < 32; count += 1) {
        part.writeUInt32LE(count);
        sent.update(part);
        yield Buffer.from(part);
      }
    })();
    const began = performance.now();
    await files.write("/workspace/large", content, {}, inTime());
    const received = createHash("sha256");
    for await (const chunk of (await files.read("/workspace/large", {}, inTime())).content) received.update(chunk);
    t.diagnostic(`64 MiB in ${Math.round(performance.now() - began)} ms`);
    assert.equal(received.digest("hex"), sent.digest("hex"));
  });

  test("is connected again by the first call after another worker has taken it over", async () => {
    {
      using other = await connect();
      await other.ping(inTime());
      await eventually("the first connection is ended", () => channels().length === 1);
    }
    await eventually("the second one as well", () => channels().length === 0);
    await guest.ping(inTime());
    assert.deepEqual([channels().length, reported], [1, []]);
  });

  test("tells nothing to a process that listens in the worker's place", async () => {
    const greetings: string[] = [];
    const accepted: Socket[] = [];
    using impostor = listenOnVsock((socket) => {
      accepted.push(socket);
      socket.on("data", (chunk) => greetings.push(String(chunk)));
      socket.on("error", () => undefined);
      socket.resume();
      socket.write(Buffer.alloc(32));
    });
    const request = { port: impostor.port, proof: Buffer.alloc(32, 1), timeoutMs: 1000 };
    await assert.rejects(guest.call(methods.connectVsock, request, inTime()), (error) =>
      isSandboxError(error, "unavailable"),
    );
    await eventually("the impostor is disconnected", () => accepted.every(({ destroyed }) => destroyed));
    assert.deepEqual([accepted.length, greetings], [1, []]);
    await guest.ping(inTime());
  });
});
