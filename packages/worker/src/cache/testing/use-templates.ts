// Uses templates like starts of sandboxes do, in a process of its own: provides, holds, links, reads. Its arguments are
// the data directory and milliseconds. It prints how often it did so, and exits with 1 when a held file was missing.
import { link, mkdir, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { holdDirectories } from "#host/storage/directory-lock.ts";
import { provideTestTemplate, provideTestWorkspace, templateKeyOf } from "./made-cache.ts";

const [dataDirectory = "", milliseconds = ""] = process.argv.slice(2);
const directories = {
  dataDirectory,
  imagesDirectory: join(dataDirectory, "images"),
  templatesDirectory: join(dataDirectory, "templates"),
};
const end = performance.now() + Number(milliseconds);
const machine = join(dataDirectory, "machines", "m-1");
let uses = 0;
for (let round = 0; performance.now() < end; round += 1) {
  const diskMib = 1 + (round % 3);
  const workspace = await provideTestWorkspace(directories, diskMib);
  using image = await holdDirectories([dirname(workspace)]);
  if (image === undefined) continue;
  await provideTestTemplate(directories, diskMib, workspace);
  const template = join(directories.templatesDirectory, templateKeyOf(diskMib));
  using held = await holdDirectories([template]);
  if (held === undefined) continue;
  await mkdir(machine, { recursive: true });
  for (const file of ["memory.base", "workspace.base"]) {
    await link(join(template, file), join(machine, file));
    const expected = file === "memory.base" ? 256 * 1024 : 64 * 1024;
    if ((await readFile(join(machine, file))).length !== expected) throw new Error(`${file} is not whole`);
  }
  await rm(machine, { recursive: true });
  uses += 1;
}
process.stdout.write(`${uses}\n`);
