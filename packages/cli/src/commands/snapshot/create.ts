import { readFile } from "node:fs/promises";
import { text as textOf } from "node:stream/consumers";
import type { ImageRecipe } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { visibleText } from "#output/visible-text.ts";
import { one } from "#arguments/inputs.ts";

export const create = defineCommand({
  summary: "Build an image of your own from the steps in a file",
  description:
    'The file is JSON: {"base": "base", "steps": [...]}. A step is one of {"type": "apt_install" or "pip_install", ' +
    '"args": {"packages": [...]}}, {"type": "run", "args": {"commands": [...]}}, {"type": "env", "args": {"vars": ' +
    '{...}}}, {"type": "workdir", "args": {"path": ...}} and {"type": "add_file", "args": {"path": ..., "content": ' +
    "...}}. The steps run in a machine, and their output goes to standard error. The same steps are built only once.",
  arguments: { name: one("NAME"), file: one("FILE") },
  examples: [
    { line: "snapshot create tools tools.json", shows: "build the image tools" },
    {
      line: `osb snapshot create tools - <<< '{"steps":[{"type":"apt_install","args":{"packages":["jq"]}}]}'`,
      shows: "read the steps from standard input",
    },
    { line: "create --snapshot tools", shows: "create a sandbox from the image" },
  ],
  async run({ name, file }, { client, host, print, progress, signal }) {
    const recipe = recipeOf(file === "-" ? await textOf(host.stdin) : await readText(file), file);
    using shown = progress();
    shown.report(`building ${name}`);
    const { images } = await client();
    const onLog = (line: string): void => {
      shown.pause();
      host.stderr.write(`${visibleText(line)}\n`);
    };
    const built = await images.build(name, recipe, { onLog }, signal);
    shown.pause();
    await print(`built ${name}: ${built.id}`, built);
  },
});

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "no such file" : message;
    throw new SandboxError("invalid_argument", `cannot read ${file}: ${why}`, { cause });
  }
}

function recipeOf(text: string, file: string): ImageRecipe {
  const where = file === "-" ? "standard input" : file;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SandboxError("invalid_argument", `${where} is not JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (typeof value !== "object" || value === null || !("steps" in value) || !Array.isArray(value.steps)) {
    throw new SandboxError("invalid_argument", `${where} must contain {"steps": [...]}: see 'snapshot create --help'`);
  }
  // The server checks the steps.
  return value as ImageRecipe;
}
