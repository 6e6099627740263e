import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { chmod, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { startVmProcess, type VmProcessOptions } from "./vm-process.ts";

const needsRoot = process.getuid?.() === 0 ? false : "only root starts a process as another user";

/** The output of a shell script that is started like a machine. */
async function outputOf(script: string, options: Partial<VmProcessOptions> = {}): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-vm-process-"));
  try {
    await chmod(directory, 0o755);
    const logFile = join(directory, "log");
    await using started = await startVmProcess({
      ...{ argv: ["sh", "-c", script], logFile, cwd: "/", env: { PATH: "/usr/bin:/bin" } },
      openInherited: () => [],
      ...options,
    });
    const { code } = await started.exited;
    const output = await readFile(options.logFile ?? logFile, "utf8");
    assert.equal(code, 0, output);
    return output.trim();
  } finally {
    await rm(directory, { recursive: true });
  }
}

test("a process's log begins with its own words, and is not written through a link", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-vm-process-"));
  try {
    const logFile = join(directory, "log");
    await writeFile(logFile, "the words of an earlier process");
    assert.equal(await outputOf("echo mine", { logFile }), "mine");
    const elsewhere = join(directory, "elsewhere");
    await symlink(elsewhere, join(directory, "link"));
    await assert.rejects(outputOf("echo mine", { logFile: join(directory, "link") }), { code: "ELOOP" });
    await assert.rejects(readFile(elsewhere), { code: "ENOENT" });
  } finally {
    await rm(directory, { recursive: true });
  }
});

test("a machine's process has its user's group and no other", { skip: needsRoot }, async () => {
  const user = { uid: 1_900_000_007, gid: 2_000_000_009 };
  assert.equal(await outputOf("id -u; id -G", { user }), "1900000007\n2000000009");
});

test("a supplementary group is the only right that a process has besides its user's", { skip: needsRoot }, async () => {
  const user = { uid: 1_900_000_007, gid: 2_000_000_009, groups: [104] };
  const output = await outputOf("id -u; id -G; grep -E 'Cap(Prm|Eff)' /proc/self/status", { user });
  assert.equal(output, "1900000007\n2000000009 104\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000");
});

/** Starts `ls` as a machine would be started, with two descriptors. */
const listDescriptors = `
  import { openSync } from "node:fs";
  import { startVmProcess } from "${import.meta.resolve("./vm-process.ts")}";
  const [logFile] = process.argv.slice(-1);
  const started = await startVmProcess({
    argv: ["sh", "-c", "ls -l /proc/$$/fd; true"], logFile, cwd: "/", env: { PATH: "/usr/bin:/bin" },
    openInherited: () => [openSync("/dev/zero"), openSync("/dev/full")],
  });
  // A started process keeps no other one alive.
  const alive = setInterval(() => undefined, 1000);
  await started.exited;
  clearInterval(alive);
`;

test("a process inherits the descriptors that it is handed, from 3 on, and none of its server's", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-vm-process-"));
  const left = openSync("/dev/random", "r");
  try {
    const logFile = join(directory, "log");
    // The server has an open descriptor, as a shell or a service manager leaves one.
    const stdio = [...Array.from({ length: 20 }, () => "ignore" as const), left];
    const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", listDescriptors];
    const server = spawn(process.execPath, [...flags, "--", logFile], { stdio });
    assert.deepEqual(await eventOf(server, "exit"), [0, null]);
    const found = [...(await readFile(logFile, "utf8")).matchAll(/ (\d+) -> (.*)$/gm)];
    assert.deepEqual(found.map(([, fd, file]) => `${fd} ${file}`).toSorted(), [
      "0 /dev/null",
      `1 ${logFile}`,
      `2 ${logFile}`,
      "3 /dev/zero",
      "4 /dev/full",
    ]);
  } finally {
    closeSync(left);
    await rm(directory, { recursive: true });
  }
});

test("a new network has nothing but a loopback that is down", { skip: needsRoot }, async () => {
  const output = await outputOf("cat /proc/net/dev | tail -n +3 | cut -d: -f1", { namespace: "new" });
  assert.equal(output, "lo");
});
