import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { firewallUnit, firewallUnitName, serviceUnit, unitName } from "./units.ts";

const analyze = spawnSync("systemd-analyze", ["--version"], { encoding: "utf8" });
const version = Number(/^systemd (\d+)/.exec(analyze.stdout ?? "")?.[1] ?? 0);
const skip = version >= 250 ? false : "systemd-analyze 250 or newer is not installed";

/** The exposure that systemd computes, from 0 to 10. Options with a mount namespace would lower it; see units.ts. */
const maxExposure = 7.5;

suite("the units", { skip }, () => {
  test("pass systemd-analyze verify", () => {
    withUnits((files) => {
      const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", ...files], {
        encoding: "utf8",
      });
      assert.deepEqual([status, stdout, stderr], [0, "", ""]);
    });
  });

  test("the service's exposure stays below the limit", () => {
    withUnits(([file = ""]) => {
      const args = ["security", "--offline=yes", `--threshold=${maxExposure * 10}`, "--no-pager", file];
      const { status, stdout } = spawnSync("systemd-analyze", args, { encoding: "utf8" });
      assert.equal(status, 0, stdout);
    });
  });
});

test("a path with blanks and special characters starts as one program", () => {
  const unit = serviceUnit({ launcher: "/srv/my $tools/100%/opensandbox", systemdVersion: 257 });
  assert.match(unit, /^ExecStart="\/srv\/my \$\$tools\/100%%\/opensandbox" up$/m);
});

test("the unit spares machines, and waits longer for a stop than for a start", () => {
  const unit = serviceUnit({ launcher: "/opt/opensandbox/opensandbox", systemdVersion: 257 });
  for (const line of ["KillMode=process", "LimitNPROC=infinity", "Restart=always", "TimeoutStopSec=900"]) {
    assert.ok(unit.includes(`\n${line}\n`), line);
  }
  // Each would hide the network namespaces of running machines from the next server.
  assert.doesNotMatch(
    unit,
    /^(ProtectSystem|ProtectHome|PrivateTmp|PrivateDevices|ReadOnlyPaths|ProtectControlGroups)=/m,
  );
});

function withUnits(use: (files: readonly string[]) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "osb-units-"));
  try {
    // A program that exists: verify checks that.
    const service = serviceUnit({ launcher: "/bin/true", systemdVersion: version });
    const units = { [unitName]: service, [firewallUnitName]: firewallUnit("/etc/opensandbox/firewall.nft") };
    const files = Object.entries(units).map(([name, text]) => {
      const file = join(directory, name);
      writeFileSync(file, text);
      return file;
    });
    use(files);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
