import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { type Role, roles } from "./options.ts";
import { firewallUnit, firewallUnitName, serviceUnit, type ServiceUnit, unitNames } from "./units.ts";

const analyze = spawnSync("systemd-analyze", ["--version"], { encoding: "utf8" });
const version = Number(/^systemd (\d+)/.exec(analyze.stdout ?? "")?.[1] ?? 0);
const skip = version >= 250 ? false : "systemd-analyze 250 or newer is not installed";

/** The exposure that systemd computes, from 0 to 10. Around machines, options with a mount namespace are absent. */
const maxExposures: Readonly<Record<Role, number>> = { combined: 7.5, worker: 7.5, server: 1.8 };

const common = { role: "combined", systemdVersion: 257, author: "a test" } as const;

suite("the units", { skip }, () => {
  test("pass systemd-analyze verify", () => {
    withUnits((files) => {
      const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", ...files], {
        encoding: "utf8",
      });
      assert.deepEqual([status, stdout, stderr], [0, "", ""]);
    });
  });

  test("the exposure of each service stays below its limit", () => {
    withUnits((files) => {
      for (const [at, role] of roles.entries()) {
        const threshold = `--threshold=${maxExposures[role] * 10}`;
        const args = ["security", "--offline=yes", threshold, "--no-pager", files[at] ?? ""];
        const { status, stdout } = spawnSync("systemd-analyze", args, { encoding: "utf8" });
        assert.equal(status, 0, stdout);
      }
    });
  });
});

test("a path with blanks and special characters starts as one program", () => {
  const unit = serviceUnit({ ...common, launcher: "/srv/my $tools/100%/opensandbox" });
  assert.match(unit, /^ExecStart="\/srv\/my \$\$tools\/100%%\/opensandbox" up$/m);
});

test("the unit spares machines, and waits longer for a stop than for a start", () => {
  const unit = serviceUnit({ ...common, launcher: "/opt/opensandbox/opensandbox" });
  for (const line of ["KillMode=process", "LimitNPROC=infinity", "Restart=always", "TimeoutStopSec=900"]) {
    assert.ok(unit.includes(`\n${line}\n`), line);
  }
  // Each would hide the network namespaces of running machines from the next server.
  assert.doesNotMatch(
    unit,
    /^(ProtectSystem|ProtectHome|PrivateTmp|PrivateDevices|ReadOnlyPaths|ProtectControlGroups)=/m,
  );
});

test("a worker's unit spares machines as well, and a server's runs without root", () => {
  const worker = serviceUnit({ ...common, role: "worker", launcher: "/usr/bin/osb" });
  for (const line of ["KillMode=process", "LimitNPROC=infinity", "Environment=OPENSANDBOX_MODE=worker"]) {
    assert.ok(worker.includes(`\n${line}\n`), line);
  }
  assert.doesNotMatch(worker, /^(Protect|Private)/m);
  assert.match(serviceUnit({ ...common, role: "server", launcher: "/usr/bin/osb" }), /^User=opensandbox$/m);
});

test("a unit for every version of systemd delegates no cgroup", () => {
  const { systemdVersion: _, ...any } = common;
  assert.doesNotMatch(serviceUnit({ ...any, launcher: "/usr/bin/osb" }), /Delegate/);
});

function withUnits(use: (files: readonly string[]) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "osb-units-"));
  try {
    // A program that exists: verify checks that.
    const options: Omit<ServiceUnit, "role"> = { launcher: "/bin/true", systemdVersion: version, author: "a test" };
    const services = roles.map((role) => [unitNames[role], serviceUnit({ ...options, role })] as const);
    const files = [...services, [firewallUnitName, firewallUnit("/etc/opensandbox/firewall.nft")] as const].map(
      ([name, text]) => {
        const file = join(directory, name);
        writeFileSync(file, text);
        return file;
      },
    );
    use(files);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
