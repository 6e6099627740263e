import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { dirname, join } from "node:path";
import { after, before, suite, test } from "node:test";
import { copyCommand } from "./run-template-steps.ts";

suite("files of a COPY step", () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-copy-test-"));
    for (const path of ["src/a.txt", "src/deep/b.txt", "other.txt", "one.md", "two.md"]) {
      await mkdir(dirname(join(directory, "context", path)), { recursive: true });
      await writeFile(join(directory, "context", path), path);
    }
  });
  after(() => rm(directory, { recursive: true }));

  /** Runs the command of the step here, as the guest would. @returns its working directory */
  async function copyInto(source: string, destination: string, mode?: string, flag = "-cf"): Promise<string> {
    const workdir = await mkdtemp(join(directory, "workdir-"));
    const archive = join(directory, "archive.tar");
    execFileSync("tar", ["-C", join(directory, "context"), flag, archive, "src", "other.txt", "one.md", "two.md"]);
    const step = { type: "copy", filesHash: "x", source, destination, mode } as const;
    const { argv } = copyCommand(step, { user: userInfo().username, workdir }, archive);
    execFileSync(argv[0], argv.slice(1), { stdio: "pipe" });
    assert.deepEqual((await readdir(directory)).includes("archive.tar"), false);
    return workdir;
  }

  for (const [source, destination, expected] of [
    ["src", "app", ["app/a.txt", "app/deep/b.txt"]],
    ["src/", "app/", ["app/a.txt", "app/deep/b.txt"]],
    ["./src", ".", ["a.txt", "deep/b.txt"]],
    ["other.txt", "renamed", ["renamed"]],
    ["other.txt", "into/", ["into/other.txt"]],
    ["other.txt", "made/of/parents", ["made/of/parents"]],
    ["*.md", "docs", ["docs/one.md", "docs/two.md"]],
    ["src/**", "all", ["all/a.txt", "all/deep/b.txt"]],
    [".", "all", ["all/one.md", "all/other.txt", "all/src/a.txt", "all/src/deep/b.txt", "all/two.md"]],
  ] as const) {
    test(`COPY ${source} ${destination} is that of a Dockerfile`, async () => {
      const workdir = await copyInto(source, destination);
      const entries = await readdir(workdir, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
      assert.deepEqual(files.map((file) => file.slice(workdir.length + 1)).toSorted(), expected);
    });
  }

  test("a compressed archive is unpacked, and the mode applies to the copies", async () => {
    const workdir = await copyInto("other.txt", "x", "0640", "-czf");
    assert.equal((await stat(join(workdir, "x"))).mode & 0o777, 0o640);
    assert.equal(await readFile(join(workdir, "x"), "utf8"), "other.txt");
  });

  test("a source that matches nothing, or leads out of the archive, is refused", async () => {
    await assert.rejects(copyInto("missing", "x"), /no file matches/);
    assert.throws(
      () => copyCommand({ type: "copy", filesHash: "x", source: "../etc", destination: "x" }, {}, "archive"),
      { code: "invalid_argument" },
    );
  });
});
