import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { optionName } from "../../packages/cli/src/arguments/option.ts";
import { type Command, type Commands, defineCommand } from "../../packages/cli/src/command.ts";
import { commands } from "../../packages/cli/src/commands/commands.ts";
import { manPage } from "./man-page.ts";

const release = { version: "1.2.3", date: 1_700_000_000 };

test("the manual page has every command and every option of it", () => {
  const page = manPage(commands, release);
  assert.match(page, /^\.TH OSB 1 "2023-11-14" "OpenSandbox 1\.2\.3"/);
  const all = [...everyCommand(commands, [])];
  assert.ok(all.length > 50, `${all.length} commands`);
  for (const { path, command } of all) {
    const title = `.SS "osb ${path.join(" ").replaceAll("-", "\\-")} `;
    assert.ok(page.includes(title), title);
    for (const key of Object.keys(command.options)) {
      const option = `\\-\\-${optionName(key).replaceAll("-", "\\-")}`;
      assert.ok(page.slice(page.indexOf(title)).includes(option), `${path.join(" ")} ${option}`);
    }
  }
});

const groff = spawnSync("groff", ["--version"]).error === undefined ? false : "groff is not installed";

test("groff formats the manual page without a warning", { skip: groff }, () => {
  const { status, stderr } = spawnSync("groff", ["-man", "-Tutf8", "-ww", "-z"], {
    input: manPage(commands, release),
    encoding: "utf8",
  });
  assert.deepEqual([status, stderr], [0, ""]);
});

test("text that looks like a request or an escape is shown as it is", { skip: groff }, () => {
  const odd = defineCommand({
    summary: "Keep .dots, 'quotes' and \\backslashes",
    description: ".hidden\n\n'quoted' at the start",
    examples: [{ line: "odd '.x' \\n `y` ~", shows: "print them" }],
    run: async () => await Promise.resolve(),
  });
  const page = manPage({ odd }, release);
  const { stdout } = spawnSync("groff", ["-man", "-Tutf8", "-P-cbou"], { input: page, encoding: "utf8" });
  for (const shown of [
    "Keep .dots, 'quotes' and \\backslashes.",
    ".hidden",
    "'quoted' at the start",
    "odd '.x' \\n `y` ~",
  ]) {
    assert.ok(stdout.includes(shown), `${shown} in ${stdout}`);
  }
});

function* everyCommand(
  among: Commands,
  path: readonly string[],
): Generator<{ readonly path: readonly string[]; readonly command: Command }> {
  for (const [word, entry] of Object.entries(among)) {
    if (entry.kind === "command") yield { path: [...path, word], command: entry };
    else yield* everyCommand(entry.commands, [...path, word]);
  }
}
