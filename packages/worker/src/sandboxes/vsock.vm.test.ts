import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { access, readdir, readFile, readlink, stat } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { processesOf } from "#host/kill-by-path.ts";
import { agentVsockPort } from "@opensandbox/wire/guest/vsock.ts";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { makeDataDirectory, startTestHost, type TestHost } from "../testing/test-host.ts";
import { connectVsock, vsockSockets } from "../testing/vsock-sockets.ts";

const hasVsock = await access("/dev/vhost-vsock", 6).then(
  () => true,
  () => false,
);
const skip = hasVsock && process.getuid?.() === 0 ? false : "needs root and /dev/vhost-vsock; ./test kvm emulates both";

/** Wakes in a row; a longer run sets more. */
const wakes = Number(process.env["OPENSANDBOX_TEST_WAKES"] ?? 5);

/** Size of a file in MiB; a longer run sets more. */
const fileMb = Number(process.env["OPENSANDBOX_TEST_VSOCK_MB"] ?? 8);

/** The emulated host is 5 to 20 times slower than hardware. */
const patience = { withinMs: 300_000, everyMs: 500 };
const never = new AbortController().signal;
const script = join(import.meta.dirname, "../testing/guest-vsock.ts");

/** A command line of guest-vsock.ts on the runtime of the agent disk. */
function guestVsock(...args: readonly (string | number)[]): string {
  const disk = "/run/opensandbox";
  const node = `${disk}/lib/ld-linux-x86-64.so.2 --library-path ${disk}/lib ${disk}/bin/node --no-warnings`;
  return `sudo ${node} /tmp/vsock.ts ${args.join(" ")}`;
}

/** The vsock address of a machine; undefined without a vsock device. */
async function cidOf(pid: number): Promise<number | undefined> {
  const line = await readFile(`/proc/${pid}/cmdline`, "utf8");
  const cid = /vhost-vsock-pci,[^\0]*guest-cid=(\d+)/.exec(line)?.[1];
  return cid === undefined ? undefined : Number(cid);
}

async function cids({ dataDirectory }: TestHost): Promise<readonly (number | undefined)[]> {
  return await Promise.all((await processesOf(dataDirectory)).map(cidOf));
}

/** The addresses of the machines whose channel is a vsock connection to this process, which listens nowhere. */
function connectedCids(): readonly number[] {
  return vsockSockets().map(({ port, peer }) => peer?.cid ?? assert.fail(`a listener is left at port ${port}`));
}

/** Machines in these tests use QEMU's own network: they need none, and emulated hosts are slow. */
const options = { network: "user", readyMachines: 0 } as const;

suite("the agent channel over vsock", { skip }, () => {
  let host: TestHost;
  let id: SandboxId;

  before(async () => {
    host = await startTestHost({ ...options, agentTransport: "vsock" });
    ({ id } = await host.start());
    await upload(id);
  });
  after(() => host?.[Symbol.asyncDispose]());

  /** 10,000 connections take minutes in an emulated host that shares its processors with other work. */
  const shell = async (line: string, on = id): Promise<string> => await host.shell(on, line, 1_800_000);

  async function upload(to: SandboxId): Promise<void> {
    const text = await readFile(script);
    const content = (async function* () {
      yield text;
    })();
    await host.worker.guest(to).files.write("/tmp/vsock.ts", content, {}, never);
  }

  async function ownCid(of = id): Promise<number> {
    return Number(await shell(guestVsock("cid"), of));
  }

  async function connectFromGuest(cid: number, first: number, count: number): Promise<Record<string, number>> {
    return JSON.parse(await shell(guestVsock("connect", cid, first, count))) as Record<string, number>;
  }

  async function answerTo(socket: Socket, line: string): Promise<string> {
    const answer = once(socket, "data") as Promise<[Buffer]>;
    socket.write(line);
    const [chunk] = await within(`the guest answers ${line}`, answer, 60_000);
    return String(chunk);
  }

  test("QEMU inherits /dev/vhost-vsock open, and the device stays the host's", async () => {
    const [pid = assert.fail("no machine runs")] = await processesOf(host.dataDirectory);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    const uid = Number(/^Uid:\s*(\d+)/m.exec(status)?.[1]);
    assert.ok(uid >= 1_900_000_000, `${uid}`);
    assert.match(status, /^CapEff:\s*0{16}$/m);
    const { mode, uid: owner } = await stat("/dev/vhost-vsock");
    assert.deepEqual([owner, mode & 0o007], [0, 0]);
    const folder = `/proc/${pid}/fd`;
    const open = await Promise.all((await readdir(folder)).map(async (fd) => await readlink(join(folder, fd))));
    assert.equal(open.filter((file) => file === "/dev/vhost-vsock").length, 1);
    // The number of the machine's user, so no two machines of a host have the same one.
    assert.deepEqual([await cidOf(pid), await ownCid()], [uid, uid]);
    assert.deepEqual(connectedCids(), [uid]);
  });

  test("files and commands with much output go over it", async () => {
    const { files } = host.worker.guest(id);
    const part = Buffer.from(new Uint8Array(2 ** 20).map((_, index) => (index * 31) % 251));
    const sent = createHash("sha256");
    const content = (async function* () {
      for (let count = 0; count < fileMb; count += 1) {
        part.writeUInt32LE(count);
        sent.update(part);
        yield Buffer.from(part);
      }
    })();
    await files.write("/workspace/large", content, {}, never);
    const received = createHash("sha256");
    for await (const chunk of (await files.read("/workspace/large", {}, never)).content) received.update(chunk);
    assert.equal(received.digest("hex"), sent.digest("hex"));
    await files.remove("/workspace/large", never);
    assert.equal((await shell("yes x | head -c 2000000")).length, 1_999_999);
  });

  test("a guest that opens 10,000 connections to the host, or connects to other guests, gets none and disturbs nobody", async () => {
    const own = await ownCid();
    const other = await host.start();
    const flood = connectFromGuest(2, 1, 10_000);
    for (let count = 0; count < 3; count += 1) assert.equal(await shell("echo $((40 + 2))", other.id), "42");
    assert.deepEqual(await flood, { ECONNRESET: 10_000 });
    // Both channels have stayed the connections that they were, and their ports refuse others.
    const [foreign = assert.fail("there is no other machine")] = (await cids(host)).filter((cid) => cid !== own);
    const channels = vsockSockets();
    assert.deepEqual(new Set(channels.map(({ peer }) => peer?.cid)), new Set([own, foreign]));
    for (const { port } of channels) assert.deepEqual(await connectFromGuest(2, port, 1), { ECONNRESET: 1 });
    // Neither another guest, nor this one's own agent.
    for (const cid of [foreign, 1, own]) {
      const outcomes = await connectFromGuest(cid, agentVsockPort, 2);
      assert.equal(outcomes["connected"], undefined, `${cid}: ${JSON.stringify(outcomes)}`);
    }
    assert.equal(await shell("echo still here"), "still here");
    assert.equal(await shell("echo still here", other.id), "still here");
    assert.deepEqual(vsockSockets(), channels);
    await host.worker.stopSandbox(other.id);
  });

  test("a process of the host that connects to a guest over vsock finds no agent", async () => {
    const [cid = assert.fail("the machine has no vsock device")] = await cids(host);
    await assert.rejects(connectVsock(cid, agentVsockPort), /: ECONNRESET$/);
    assert.equal(await shell("echo still here"), "still here");
  });

  test("two forks and their parent run at once on addresses of their own; the parent keeps its connection", async () => {
    await shell(`(setsid ${guestVsock("serve", 5000, "/tmp/log")} >/dev/null 2>&1 &)`);
    await eventually("the guest listens", async () => (await shell("cat /tmp/log || true")) !== "", patience);
    const parentCid = await ownCid();
    const socket = await connectVsock(parentCid, 5000);
    try {
      assert.equal(await answerTo(socket, "before"), "before");
      const snapshotId = newSnapshotId();
      await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
      const forks = await Promise.all(
        [1, 2].map(async () => (await host.start({ kind: "snapshot", snapshotId, identity: "new" })).id),
      );
      const seen = await Promise.all([id, ...forks].map((each) => ownCid(each)));
      assert.equal(new Set(seen).size, 3);
      assert.deepEqual(new Set(seen), new Set(await cids(host)));
      assert.equal(seen[0], parentCid);
      assert.equal(await answerTo(socket, "after"), "after");
      assert.equal(await shell("cat /tmp/log"), "listening");
      for (const [index, fork] of forks.entries()) {
        assert.match(await shell("cat /tmp/log", fork), /^listening\n(ended|ECONNRESET|ENOTCONN)$/);
        // The listener of the captured guest goes on.
        const fresh = await connectVsock(seen[index + 1] ?? 0, 5000);
        assert.equal(await answerTo(fresh, "fork"), "fork");
        fresh.destroy();
      }
      await Promise.all(forks.map((fork) => host.worker.stopSandbox(fork)));
      await host.worker.removeSnapshot(snapshotId);
    } finally {
      socket.destroy();
    }
  });

  test("no wake in a row of them loses the agent", async (t) => {
    const pid = await shell("setsid sleep 100000 >/dev/null 2>&1 & echo $!");
    for (let count = 1; count <= wakes; count += 1) {
      const snapshotId = newSnapshotId();
      await host.worker.hibernateSandbox(id, snapshotId, never);
      const began = performance.now();
      const { restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
      assert.deepEqual([restoredFrom, await shell("pgrep -x sleep")], ["memory", pid], `wake ${count}`);
      t.diagnostic(`wake ${count}: ${Math.round(performance.now() - began)} ms`);
      assert.deepEqual(connectedCids(), await cids(host));
      await host.worker.removeSnapshot(snapshotId);
    }
  });
});

test(
  "a machine keeps its address over an adoption, and its snapshots wake over either transport",
  { skip },
  async (t) => {
    const directory = await makeDataDirectory();
    const hosts = new AsyncDisposableStack();
    t.after(() => hosts.disposeAsync());
    let host = await startTestHost({ ...options, directory, agentTransport: "vsock" });
    const { id } = await host.start();
    const counting = await host.shell(id, "setsid sleep 100000 >/dev/null 2>&1 & echo $!");
    const [cid = assert.fail("the machine has no vsock device")] = await cids(host);
    await host.reopen();
    assert.equal(await host.shell(id, "pgrep -x sleep"), counting);
    assert.deepEqual([await cids(host), connectedCids()], [[cid], [cid]]);

    async function hibernate(): Promise<SnapshotId> {
      const snapshotId = newSnapshotId();
      await host.worker.hibernateSandbox(id, snapshotId, never);
      await host[Symbol.asyncDispose]();
      return snapshotId;
    }
    // First without a vsock device, although the captured machine had one; then on a host that has it, although the
    // captured machine had none.
    for (const agentTransport of ["virtio-serial", "vsock"] as const) {
      const snapshotId = await hibernate();
      host = await startTestHost({ ...options, directory, agentTransport });
      const { restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
      assert.deepEqual([restoredFrom, await host.shell(id, "pgrep -x sleep")], ["memory", counting]);
      assert.deepEqual([await cids(host), connectedCids()], [[undefined], []]);
    }
    hosts.use(host);
  },
);
