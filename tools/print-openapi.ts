// Prints openapi/control-plane.json from the schemas of the public wire. With --check, reports whether the file is up
// to date.
import { readFile, writeFile } from "node:fs/promises";
import { openApiDocument } from "../packages/wire/src/public/openapi.ts";

const file = new URL("../openapi/control-plane.json", import.meta.url);
const printed = `${JSON.stringify(openApiDocument(), undefined, 2)}\n`;

if (process.argv.includes("--check")) {
  const committed = await readFile(file, "utf8").catch(() => "");
  if (committed !== printed) {
    console.error("openapi/control-plane.json differs from the schemas: run `npm run openapi` and commit the file");
    process.exitCode = 1;
  }
} else {
  await writeFile(file, printed);
}
