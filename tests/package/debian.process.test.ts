import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, suite, test } from "node:test";
import { version } from "@opensandbox/wire/version.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";

const root = resolve(import.meta.dirname, "../..");
const has = (program: string): boolean => spawnSync(program, ["--version"]).error === undefined;

suite("the Debian package", { skip: has("dpkg-deb") ? false : "dpkg-deb is not installed" }, () => {
  let directory: string;
  let file: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-deb-"));
    file = await build("first", "022");
  });
  after(() => rm(directory, { recursive: true }));

  async function build(name: string, umask: string): Promise<string> {
    const temporary = join(directory, `temporary-${name}`);
    await mkdir(temporary);
    await chmod(temporary, 0o755);
    const line = `umask ${umask} && exec "$0" --disable-warning=ExperimentalWarning tools/package/build.ts deb "$1"`;
    const env = { OPENSANDBOX_DEB_COMPRESSION: "none", SOURCE_DATE_EPOCH: "1700000000", TMPDIR: temporary };
    const shell = ["sh", "-c", line, process.execPath, join(directory, name)] as const;
    return (await runCommand("build the package", shell, { cwd: root, env })).trim();
  }

  const hashOf = async (path: string): Promise<string> =>
    createHash("sha256")
      .update(await readFile(path))
      .digest("hex");

  test("equal sources make equal packages, at another time, in another directory, with another umask", async () => {
    assert.equal(await hashOf(await build("second", "077")), await hashOf(file));
  });

  test("its files belong to root, nobody else can write them, and none is set-user-id", async () => {
    const listed = await runCommand("list the package", ["dpkg-deb", "--contents", file]);
    const wrong = listed
      .split("\n")
      .filter((line) => line !== "" && !/^(drwxr-xr-x|-rw-r--r--|-rwxr-xr-x|lrwxrwxrwx) root\/root /.test(line));
    assert.deepEqual(wrong, []);
  });

  test("unpacked anywhere, it has the program, its units, its completion and its manual page", async () => {
    const unpacked = join(directory, "unpacked");
    await runCommand("unpack the package", ["dpkg-deb", "--extract", file, unpacked]);
    const shown = await runCommand("run it", [join(unpacked, "usr/bin/osb"), "--version"]);
    assert.equal(shown, `osb ${version} (Node ${process.versions.node})\n`);
    const completion = ["-c", '. "$0" && complete -p osb', join(unpacked, "usr/share/bash-completion/completions/osb")];
    assert.match(await runCommand("complete", ["bash", ...completion]), /-F _osb osb/);
    for (const path of [
      "lib/systemd/system/opensandbox.service",
      "lib/systemd/system/opensandbox-server.service",
      "lib/systemd/system/opensandbox-worker.service",
      "share/man/man1/osb.1.gz",
      "share/zsh/vendor-completions/_osb",
      "share/fish/vendor_completions.d/osb.fish",
    ]) {
      assert.ok((await stat(join(unpacked, "usr", path))).isFile(), path);
    }
  });

  // Only this test leaves the package uncompressed.
  const uncompressed = "--suppress-tags=uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball";

  test("lintian finds nothing", { skip: has("lintian") ? false : "lintian is not installed" }, () => {
    const { status, stdout, stderr } = spawnSync("lintian", ["--allow-root", "--fail-on=warning", uncompressed, file], {
      encoding: "utf8",
    });
    assert.equal(status, 0, `${stdout}${stderr}`);
  });
});
