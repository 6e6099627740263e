import assert from "node:assert/strict";
import { readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";

/** What the kernel reports about a process: the fields of proc_pid_status(5) by their names. */
export async function statusOf(pid: number): Promise<(name: string) => string> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return (name) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1]?.trim() ?? "";
}

/** Asserts that a process has no capability, gains none by a program that it executes, and has a filter of system calls. */
export async function assertNoRights(pid: number): Promise<void> {
  const field = await statusOf(pid);
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) assert.equal(field(set), "0000000000000000", set);
  assert.equal(field("NoNewPrivs"), "1");
  // SECCOMP_MODE_FILTER, with a program: an empty one would leave the count at 0.
  assert.equal(field("Seccomp"), "2");
  assert.ok(Number(field("Seccomp_filters")) >= 1, field("Seccomp_filters"));
}

/** What each descriptor of a process leads to. A unix socket is named by the path by which its listener was bound. */
export async function openFiles(pid: number): Promise<readonly string[]> {
  for (let links = await linksOf(pid), attempt = 1; ; attempt += 1) {
    // A connection belongs to the network of its client, which is this one.
    const sockets = new Map((await Promise.all(["self", `${pid}`].map(unixSockets))).flat());
    const again = await linksOf(pid);
    if (links.join("\n") === again.join("\n")) return links.map((link) => sockets.get(link) ?? link);
    assert.ok(attempt < 20, `process ${pid} opens and closes descriptors all the time: ${again.join(" ")}`);
    links = again;
  }
}

async function linksOf(pid: number): Promise<readonly string[]> {
  const folder = `/proc/${pid}/fd`;
  const links = await Promise.all(
    // A descriptor that was closed meanwhile leads nowhere.
    (await readdir(folder)).map(async (fd) => await readlink(join(folder, fd)).catch(() => undefined)),
  );
  return links.filter((link) => link !== undefined);
}

/** The bound unix sockets in the network of a process, by their links in `/proc/<pid>/fd`. */
async function unixSockets(pid: string): Promise<readonly (readonly [string, string])[]> {
  const table = await readFile(`/proc/${pid}/net/unix`, "utf8");
  return table.split("\n").flatMap((line) => {
    // proc_net(5): six columns, the inode and the path.
    const [, inode, path] = /^(?:\S+ +){6}(\d+) (.+)$/.exec(line) ?? [];
    return inode === undefined || path === undefined ? [] : [[`socket:[${inode}]`, path] as const];
  });
}
