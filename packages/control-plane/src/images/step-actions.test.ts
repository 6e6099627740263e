import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { actionsOf } from "./step-actions.ts";

test("packages are passed as arguments, which no shell interprets", () => {
  const [action, ...others] = actionsOf({ type: "apt_install", args: { packages: ["jq", "$(reboot)"] } }, undefined);
  assert.deepEqual(others, []);
  assert.ok(action?.kind === "command");
  assert.deepEqual(action.command.argv.slice(-2), ["jq", "$(reboot)"]);
  assert.ok(!action.command.argv[2]?.includes("reboot"));
  assert.equal(action.command.user, "root");
});

test("commands run unchanged, in order, in the last working directory", () => {
  const step = { type: "run", args: { commands: ["make", "make install"] } } as const;
  assert.deepEqual(actionsOf({ ...step, args: { commands: ["make"] } }, undefined), [
    { kind: "command", command: { argv: ["bash", "-c", "make"] } },
  ]);
  assert.deepEqual(actionsOf({ ...step, args: { commands: [...step.args.commands] } }, "/src"), [
    { kind: "command", command: { argv: ["bash", "-c", "make"], cwd: "/src" } },
    { kind: "command", command: { argv: ["bash", "-c", "make install"], cwd: "/src" } },
  ]);
});

test("files are decoded to their original bytes", () => {
  assert.deepEqual(
    actionsOf(
      { type: "add_file", args: { path: "/a", content: Buffer.from("é\0").toString("base64"), encoding: "base64" } },
      undefined,
    ),
    [{ kind: "file", path: "/a", content: Buffer.from("é\0") }],
  );
  assert.deepEqual(
    actionsOf({ type: "add_dir", args: { path: "/d/", files: [{ relativePath: "x/y", content: "eA==" }] } }, undefined),
    [
      { kind: "directory", path: "/d/" },
      { kind: "file", path: "/d/x/y", content: Buffer.from("x") },
    ],
  );
});

test("variables become lines of two files, whatever their values", () => {
  const vars = { PLAIN: "a b", QUOTED: 'say "hi"', SINGLE: "it's", DOLLAR: "$HOME `id`" };
  const actions = actionsOf({ type: "env", args: { vars } }, undefined);
  const lines = actions.map((action) => (action.kind === "command" ? action.command.argv.slice(4) : []));
  assert.deepEqual(lines[0], ['PLAIN="a b"', "QUOTED='say \"hi\"'", 'SINGLE="it\'s"', 'DOLLAR="$HOME `id`"']);
  // A shell that reads the other file gets the original values.
  const script = `${lines[1]?.join("\n")}\nprintf '%s\\n' "$PLAIN" "$QUOTED" "$SINGLE" "$DOLLAR"`;
  assert.equal(execFileSync("sh", ["-c", script]).toString(), `${Object.values(vars).join("\n")}\n`);
});
