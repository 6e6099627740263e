import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, chown, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { promisify } from "node:util";
import { readConfig } from "@opensandbox/server";

const repository = join(import.meta.dirname, "../..");

/** The emulated host has a user in the group of /dev/kvm (`member`) and one outside it (`stranger`). */
const skip =
  process.env["OPENSANDBOX_KVM_HOST"] === "1" ? false : "needs the users of the emulated KVM host: ./test kvm all";

suite("the command line under KVM, by user", { skip }, () => {
  /** Runs the launcher as a user with a data directory of its own and the images of this host. */
  async function launch(user: string, env: Readonly<Record<string, string>>, ...args: readonly string[]) {
    const { imagesDirectory } = readConfig(process.env);
    const directory = await mkdtemp(join(tmpdir(), `osb-${user}-`));
    try {
      const id = async (flag: string) => Number((await promisify(execFile)("id", [flag, user])).stdout);
      await chmod(directory, 0o711);
      await chown(directory, await id("-u"), await id("-g"));
      const as = ["--reuid", user, "--regid", `${await id("-g")}`, "--init-groups", "--"];
      const own = { HOME: directory, OPENSANDBOX_DATA_DIR: directory, OPENSANDBOX_IMAGES_DIR: imagesDirectory };
      const { PATH = "" } = process.env;
      const options = { cwd: repository, env: { PATH, ...own, ...env }, timeout: 900_000 };
      return await promisify(execFile)("setpriv", [...as, "./opensandbox", ...args], options).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ code, stdout, stderr }),
      );
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  const uname = ["run", "--image", "minimal", "--", "uname", "-a"] as const;
  const { templatesDirectory } = readConfig(process.env);

  test("root runs a command, with Debian's mode of /dev/kvm", async () => {
    assert.equal((await stat("/dev/kvm")).mode & 0o777, 0o660);
    const env = { OPENSANDBOX_ACCEL: "kvm", OPENSANDBOX_TEMPLATES_DIR: templatesDirectory };
    const { code, stdout, stderr } = await launch("root", env, ...uname);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Linux sandbox .*x86_64 GNU\/Linux$/m);
  });

  test("a user of the device's group runs a command", async () => {
    const { code, stdout, stderr } = await launch("member", { OPENSANDBOX_ACCEL: "kvm" }, ...uname);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Linux sandbox .*x86_64 GNU\/Linux$/m);
  });

  test("a user outside the group is refused KVM with a command to run, and doctor says that TCG takes its place", async () => {
    const line = "sudo usermod -aG kvm stranger, then log in again";
    const refused = await launch("stranger", { OPENSANDBOX_ACCEL: "kvm" }, ...uname);
    assert.notEqual(refused.code, 0);
    assert.ok(refused.stderr.includes(line), refused.stderr);
    assert.ok(refused.stderr.includes("user stranger may not open /dev/kvm (mode 0660, group kvm)"), refused.stderr);
    const doctor = await launch("stranger", {}, "doctor");
    assert.match(doctor.stdout, /warn +accelerator +tcg: .*; under tcg a probe guest ran in \d+ ms/);
    assert.ok(doctor.stdout.includes(line), doctor.stdout);
  });
});
