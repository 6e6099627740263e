import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const cwd = fileURLToPath(new URL("..", import.meta.url));
const installed = spawnSync("shellcheck", ["--version"]).error === undefined;
const skip = installed ? false : "shellcheck is not installed";

for (const script of [
  "opensandbox",
  "test",
  ".ci/run",
  "images/initramfs/init",
  "images/agent/init",
  "images/agent/claude-agent-wrapper",
  "images/agent/sftp-server",
  "tools/kvm-host/initramfs-init",
  "tools/kvm-host/start",
  "tests/host/boot",
  "tests/host/phases",
  "tests/host/package-phases",
  "tests/host/machine-phases",
  "deploy/azure/deploy-azure-dev.sh",
  "deploy/azure/setup-azure-host.sh",
  "tools/package/install.sh",
  "tools/package/debian/postinst",
  "tools/package/debian/prerm",
  "tools/package/debian/postrm",
]) {
  test(`shellcheck finds nothing in ${script}`, { skip }, () => check([script]));
}

// A hook of mmdebstrap without an interpreter line, so the shell is given here.
test("shellcheck finds nothing in images/setup.sh", { skip }, () => check(["--shell=dash", "images/setup.sh"]));

function check(args: readonly string[]): void {
  const { stdout } = spawnSync("shellcheck", args, { cwd, encoding: "utf8" });
  assert.equal(stdout, "");
}
