import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildPackages } from "./debian-packages.ts";
import { runPhasesInMachine } from "./machine-host.ts";
import { assertKept } from "./promises.ts";

const skip = process.getuid?.() === 0 ? false : "only root can unpack a distribution";

/** Half an hour on an idle host. Beside other work, the installation of packages alone takes that long. */
const timeout = 150 * 60_000;

/** QEMU 9 for Ubuntu 24.04 is in the cloud archive, which a test cannot rely on: sandboxes there are fake. */
const hosts = [
  { suite: "trixie", name: "Debian 13", fake: false },
  { suite: "bookworm", name: "Debian 12", fake: false },
  { suite: "noble", name: "Ubuntu 24.04", fake: true },
] as const;

const only = process.env["OPENSANDBOX_TEST_MACHINE"];

for (const { suite, name, fake } of hosts) {
  if (only !== undefined && only !== suite) continue;
  test(
    `a machine with a clean ${name}: package, set-up, reboot, sandbox, upgrade beside it and removal`,
    { skip, timeout },
    async (t) => {
      const scratch = await mkdtemp(join(tmpdir(), "osb-clean-"));
      t.after(() => rm(scratch, { recursive: true }));
      const files = await buildPackages(scratch, t.signal);
      const script = "machine-phases";
      const output = await runPhasesInMachine({ suite, script, files, scratch, fake }, t.signal);
      await assertKept(script, output, fake ? [/under KVM/] : []);
    },
  );
}
