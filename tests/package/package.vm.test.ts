import assert from "node:assert/strict";
import { chmod } from "node:fs/promises";
import { test } from "node:test";
import { cliEnvironment, startCli } from "../e2e/cli.ts";
import { installPackage } from "./installed-package.ts";

test("the published package, installed without sources, runs a command in a real machine", async (t) => {
  const { directory, osb } = await installPackage((undo) => t.after(undo));
  // Machines run as separate users, who need to pass through this directory.
  await chmod(directory, 0o711);
  const env = { ...cliEnvironment(directory), HOME: directory };
  const run = startCli([osb], ["run", "--image", "minimal", "--", "uname", "-a"], { env, stdin: null });
  const { code, stdout, stderr } = await run.ended;
  assert.equal(code, 0, stderr);
  assert.match(stdout.toString(), /^Linux .* x86_64 GNU\/Linux$/m);
});
