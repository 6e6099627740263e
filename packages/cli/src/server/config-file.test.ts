import assert from "node:assert/strict";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { runForTest } from "#testing/test-host.ts";

async function stand(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), "osb-config-"));
  t.after(() => rm(directory, { recursive: true }));
  const env = { XDG_CONFIG_HOME: directory, OPENSANDBOX_DATA_DIR: join(directory, "data") };
  return { env, file: join(directory, "opensandbox", "config.json") };
}

test("settings are stored in a file that only its owner can read, and a key is shown in part", async (t) => {
  const { env, file } = await stand(t);
  const key = `osb_${"0123456789abcdef".repeat(4)}`;
  assert.equal((await runForTest(["config", "set", "api-url", "https://a.test"], { env })).code, 0);
  const stored = await runForTest(["config", "set", "api-key", "-"], { env, stdin: `${key}\n` });
  assert.deepEqual([stored.code, stored.stdout], [0, `stored api-key in ${file}\n`]);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.equal((await stat(dirname(file))).mode & 0o777, 0o700);

  const shown = await runForTest(["config"], { env });
  assert.match(shown.stdout, new RegExp(`^api-url +https://a.test +${file}$`, "m"));
  assert.match(shown.stdout, /^api-key +osb_\.\.\.cdef +/m);
  assert.ok(!shown.stdout.includes(key));
  assert.deepEqual(JSON.parse((await runForTest(["config", "--json"], { env })).stdout)["api-url"], {
    value: "https://a.test",
    from: file,
  });

  await runForTest(["config", "set", "api-url", ""], { env });
  assert.match((await runForTest(["config"], { env })).stdout, /^api-url +- +not set$/m);
});

test("an invalid configuration file is named in the error", async (t) => {
  const { env, file } = await stand(t);
  await runForTest(["config", "set", "api-url", "https://a.test"], { env });
  await writeFile(file, "{");
  const { code, stderr } = await runForTest(["ls"], { env });
  assert.equal(code, 1);
  assert.ok(stderr.startsWith(`osb: cannot read the configuration file ${file}: `), stderr);
});
