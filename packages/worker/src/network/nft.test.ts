import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "#host/run-command.ts";
import { nftFromInput } from "./nft.ts";

test("nft reads its commands from a pipe, and its failure is reported", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-nft-"));
  t.after(() => rm(directory, { recursive: true }));
  const nft = `#!/bin/sh\n[ -p /dev/stdin ] || exit 3\ncat >"${directory}/read"\ngrep -q good "${directory}/read"\n`;
  await writeFile(join(directory, "nft"), nft, { mode: 0o755 });
  const env = { PATH: `${directory}:${process.env["PATH"] ?? ""}` };
  await runCommand("set rules", nftFromInput, { input: "good\n", env });
  assert.equal(await readFile(join(directory, "read"), "utf8"), "good\n");
  await assert.rejects(runCommand("set rules", nftFromInput, { input: "bad\n", env }), /exited with 1/);
});
