import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runPhases, suites } from "./systemd-host.ts";

/** Building Debian takes some minutes, and the phases one or two. */
const timeout = 20 * 60_000;

const hasCgroups = spawnSync("findmnt", ["--types", "cgroup2"]).status === 0;
const skip = process.getuid?.() !== 0 ? "only root can make namespaces" : !hasCgroups && "cgroup2 is not mounted";

for (const { suite, name } of suites) {
  test(`${name} under systemd: set up, restarted, rebooted and removed`, { skip, timeout }, async (t) => {
    const scratch = await mkdtemp(join(tmpdir(), "osb-systemd-"));
    t.after(() => rm(scratch, { recursive: true }));
    const output = await runPhases({ suite, script: "phases", scratch }, t.signal);
    const script = await readFile(join(import.meta.dirname, "phases"), "utf8");
    const promises = [...script.matchAll(/^ {2}promise "([^"]+)"/gm)].map(([, name]) => `ok ${name}`);
    assert.ok(promises.length > 20, `${promises.length} promises`);
    assert.deepEqual(output.match(/^(not )?ok .*$/gm), promises, output);
  });
}
