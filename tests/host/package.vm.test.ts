import { spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildPackages } from "./debian-packages.ts";
import { assertKept } from "./promises.ts";
import { runPhases, suites } from "./systemd-host.ts";

/** Building Debian takes some minutes, and the phases two. */
const timeout = 20 * 60_000;

const hasCgroups = spawnSync("findmnt", ["--types", "cgroup2"]).status === 0;
const skip = process.getuid?.() !== 0 ? "only root can make namespaces" : !hasCgroups && "cgroup2 is not mounted";

for (const { suite, name } of suites) {
  test(
    `${name} under systemd: the package is installed, upgraded with a running sandbox, and purged`,
    {
      skip,
      timeout,
    },
    async (t) => {
      const scratch = await mkdtemp(join(tmpdir(), "osb-systemd-"));
      t.after(() => rm(scratch, { recursive: true }));
      const files = await buildPackages(scratch, t.signal);
      const output = await runPhases({ suite, script: "package-phases", files, scratch }, t.signal);
      await assertKept("package-phases", output);
    },
  );
}
