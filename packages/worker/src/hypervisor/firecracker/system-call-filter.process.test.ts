import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { systemCallFilter } from "./system-call-filter.ts";

const node = [process.execPath, "--disable-warning=ExperimentalWarning", "--input-type=module", "--eval"] as const;

/** Runs `work` in a program that was started under the filter. Returns what it prints. */
async function underFilter(work: string): Promise<string> {
  const program = `
    import { openLibc } from "${import.meta.resolve("#host/kernel/ffi.ts")}";
    import { spawnSync } from "node:child_process";
    import { connect, createServer } from "node:net";
    import { Worker } from "node:worker_threads";
    const libc = openLibc({
      socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
      unshare: { return: "i32", arguments: ["i32"] },
    });
    ${work}
  `;
  // As setpriv(1) does: a filter, then the program.
  const starter = `
    import { checked, getRawPointer, openLibc } from "${import.meta.resolve("#host/kernel/ffi.ts")}";
    import { systemCallFilter } from "${import.meta.resolve("./system-call-filter.ts")}";
    const libc = openLibc({
      execv: { return: "i32", arguments: ["pointer", "pointer"] },
      fcntl: { return: "i32", arguments: ["i32", "i32", "i32"] },
      prctl: { return: "i32", arguments: ["i32", "u64", "u64", "u64", "u64"] },
    });
    const filter = systemCallFilter();
    const words = ${JSON.stringify([...node, program])}.map((word) => Buffer.from(word + "\\0"));
    const argv = Buffer.alloc(8 * (words.length + 1));
    words.forEach((word, index) => argv.writeBigUInt64LE(getRawPointer(word), 8 * index));
    // struct sock_fprog: the number of instructions, and where they are.
    const loaded = Buffer.alloc(16);
    loaded.writeUInt16LE(filter.length / 8, 0);
    loaded.writeBigUInt64LE(getRawPointer(filter), 8);
    const [PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER] = [22, 38, 2n];
    checked("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n));
    checked("prctl", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, getRawPointer(loaded), 0n, 0n));
    // Node keeps its standard streams from programs.
    const F_SETFD = 2;
    for (const stream of [0, 1, 2]) checked("fcntl", libc.fcntl(stream, F_SETFD, 0));
    checked("execv", libc.execv(words[0], argv));
  `;
  const [file, ...options] = node;
  return (await promisify(execFile)(file, [...options, starter], { timeout: 60_000 })).stdout.trim();
}

test("a process under the filter has threads and unix sockets", async () => {
  const work = `
    const source = "import { parentPort } from 'node:worker_threads'; parentPort.postMessage('a thread');";
    const worker = new Worker(source, { eval: true });
    worker.once("message", (said) => {
      const server = createServer((socket) => socket.end(said)).listen("\\0osb-filter-" + process.pid, () => {
        connect(server.address()).on("data", (data) => console.log(String(data))).on("close", () => server.close());
      });
    });
  `;
  assert.equal(await underFilter(work), "a thread");
});

test("a process under the filter starts no process, makes no namespace, and opens no socket of another kind", async () => {
  const work = `
    const [AF_INET, AF_NETLINK, AF_VSOCK, SOCK_STREAM] = [2, 16, 40, 1];
    const started = spawnSync("/bin/true").error?.code;
    const made = libc.unshare(0x10000000);
    const opened = [AF_INET, AF_NETLINK, AF_VSOCK].map((family) => libc.socket(family, SOCK_STREAM, 0));
    console.log(JSON.stringify({ started, made, opened }));
  `;
  assert.deepEqual(JSON.parse(await underFilter(work)), { started: "EPERM", made: -1, opened: [-1, -1, -1] });
});

test("the filter has whole instructions, fewer than the kernel's limit", () => {
  const { length } = systemCallFilter();
  assert.equal(length % 8, 0);
  assert.ok(length / 8 <= 4096);
});
