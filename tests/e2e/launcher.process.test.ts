import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { suite, test, type TestContext } from "node:test";
import { promisify } from "node:util";

const root = resolve(import.meta.dirname, "../..");
const nobody = 65_534;

/** The programs that the launcher runs before it can tell which ones are missing. */
const basics = [
  "bash",
  "env",
  "readlink",
  "stat",
  "sed",
  "grep",
  "cmp",
  "flock",
  "mktemp",
  "rm",
  "mv",
  "cat",
  "tail",
  "sleep",
];

// The launcher in a fresh clone, without root.
suite(
  "the launcher, for a user without the right to install anything",
  {
    skip: process.getuid?.() === 0 ? false : "only root can become another user",
  },
  () => {
    /** A checkout of its own. Its PATH has the basic programs and `programs`. */
    async function checkout(t: TestContext, { node, programs }: { node: boolean; programs: readonly string[] }) {
      const directory = await mkdtemp(join(tmpdir(), "osb-checkout-"));
      t.after(() => rm(directory, { recursive: true }));
      await chmod(directory, 0o755);
      const bin = join(directory, "bin");
      await mkdir(bin);
      for (const program of [...basics, ...programs]) await symlink(pathOf(program), join(bin, program));
      await copyFile(join(root, "opensandbox"), join(directory, "opensandbox"));
      const shared = ["package.json", "package-lock.json", ...(node ? ["node_modules", "packages"] : [])];
      for (const name of shared) await symlink(join(root, name), join(directory, name));
      const launcher = join(directory, "opensandbox");
      return {
        launcher,
        run: async (
          ...args: string[]
        ): Promise<{ readonly code: number; readonly stderr: string; readonly stdout: string }> => {
          const user = ["--reuid", `${nobody}`, "--regid", `${nobody}`, "--clear-groups"];
          const ran = promisify(execFile)(pathOf("setpriv"), [...user, launcher, ...args], {
            env: { PATH: bin, HOME: "/nonexistent", OPENSANDBOX_DATA_DIR: join(directory, "data") },
          });
          return await ran.then(
            (output) => ({ code: 0, ...output }),
            (error: { code: number; stdout: string; stderr: string }) => error,
          );
        },
      };
    }

    for (const args of [["run", "--", "true"], ["setup"], ["--help"]]) {
      test(`without Node, ${args.join(" ")} prints the command to type`, async (t) => {
        const { launcher, run } = await checkout(t, { node: false, programs: ["apt-get"] });
        const { code, stdout, stderr } = await run(...args);
        assert.equal(code, 1);
        assert.equal(stdout, "");
        assert.equal(stderr, `opensandbox: missing nodejs, npm. Install with: sudo ${launcher} setup\n`);
      });
    }

    test("without apt-get the advice does not name it", async (t) => {
      const { run } = await checkout(t, { node: false, programs: [] });
      const { stderr } = await run("run", "--", "true");
      assert.match(stderr, /missing nodejs, npm\. These are Debian's package names\. This is another distribution/);
    });

    test("without QEMU, commands that start no machine run, and the others print the command to type", async (t) => {
      const { launcher, run } = await checkout(t, { node: true, programs: ["apt-get"] });
      const help = await run("--help");
      assert.deepEqual([help.code, help.stderr], [0, ""]);
      const { code, stderr } = await run("run", "--", "true");
      assert.notEqual(code, 0);
      const [first = ""] = stderr.split("\n");
      assert.match(
        first,
        /^opensandbox: cannot run machines on this host: missing qemu-system-x86 \(9\.0 or newer\), /,
      );
      assert.ok(first.endsWith(`Install with: sudo ${launcher} setup`), first);
    });
  },
);

suite(
  "the launcher on Ubuntu 24.04",
  { skip: process.getuid?.() === 0 ? false : "only root can install packages" },
  () => {
    /** Ubuntu's own QEMU; the cloud archive does not answer, which apt-get reports as a warning. */
    const aptGet = `#!/bin/sh
case "$*" in
  *--simulate*) echo "Inst qemu-system-x86 (1:8.2.2+ds-0ubuntu1 Ubuntu:24.04/noble [amd64])" ;;
  *update*) echo "W: Failed to fetch http://ubuntu-cloud.archive.canonical.com/ubuntu" ;;
esac
`;

    test("when the cloud archive does not answer, the message names it, and no package source is left", async (t) => {
      const directory = await mkdtemp(join(tmpdir(), "osb-noble-"));
      t.after(() => rm(directory, { recursive: true }));
      await mkdir(join(directory, "bin"));
      for (const program of [...basics, "tee", "ls", "mount", "rmdir"])
        await symlink(pathOf(program), join(directory, "bin", program));
      await writeFile(join(directory, "bin/apt-get"), aptGet, { mode: 0o755 });
      await writeFile(join(directory, "os-release"), "ID=ubuntu\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n");
      await copyFile(join(root, "opensandbox"), join(directory, "opensandbox"));
      for (const name of ["package.json", "package-lock.json", "node_modules", "packages"])
        await symlink(join(root, name), join(directory, name));
      const steps = [
        `mount --bind ${directory}/os-release "$(readlink -f /etc/os-release)"`,
        "mount -t tmpfs tmpfs /etc/apt/sources.list.d",
        `PATH=${directory}/bin ${directory}/opensandbox setup && exit 1`,
        "ls /etc/apt/sources.list.d",
      ].join("\n");
      const unshare = ["--mount", "--propagation", "private", "bash", "-uc", steps];
      const { stdout, stderr } = await promisify(execFile)("unshare", unshare);
      assert.match(
        stderr,
        /opensandbox: the package sources of this host have QEMU 8\.2, but 9\.0 or newer is needed: make the Ubuntu cloud archive \(http:\S+ noble\S+\), which did not answer, reachable from this host and repeat the command, or install a newer QEMU by hand\n$/,
      );
      assert.equal(stdout, "");
    });
  },
);

function pathOf(program: string): string {
  const found = (process.env["PATH"] ?? "").split(delimiter).find((directory) => existsSync(join(directory, program)));
  return join(found ?? "/usr/bin", program);
}
