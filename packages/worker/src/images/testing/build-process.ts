// A process that provides one artifact slowly, for `artifact.process.test.ts`. It notes each build in a file beside the
// images directory and prints the artifact's content.
import { appendFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { provideArtifact } from "../artifact.ts";

const [imagesDirectory = "", milliseconds = "0"] = process.argv.slice(2);
const { directory } = await provideArtifact({
  kind: "thing",
  imagesDirectory,
  inputs: { of: "a test" },
  needMib: 1,
  signal: undefined,
  async build(target) {
    await appendFile(`${imagesDirectory}.builds`, `${process.pid}\n`);
    await writeFile(join(target, "half"), "half");
    process.stdout.write("building\n");
    await sleep(Number(milliseconds));
    await writeFile(join(target, "content"), "whole");
    return {};
  },
});
process.stdout.write(`${await readFile(join(directory, "content"), "utf8")}\n`);
