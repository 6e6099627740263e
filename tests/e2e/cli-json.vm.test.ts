import assert from "node:assert/strict";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { cliEnvironment, firstOutput, startCli, type StartedCli } from "./cli.ts";

// A snapshot of the names and types of the fields that `--json` prints: programs depend on them.

const launcher = join(import.meta.dirname, "../../opensandbox");

let directory: string;
let env: Record<string, string>;
let server: StartedCli;
let up: unknown;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "osb-cli-json-"));
  // The users of the machines must be able to pass through this directory.
  await chmod(directory, 0o711);
  env = cliEnvironment(directory);
  server = startCli([launcher], ["up", "--port", "0", "--json"], { env, stdin: null });
  up = JSON.parse(await firstOutput(server));
});
after(async () => {
  server?.kill("SIGTERM");
  await server?.ended;
  await rm(directory, { recursive: true, force: true });
});

test("the names and types of all --json output are stable", async (t) => {
  const shapes: Record<string, unknown> = { up: shapeOf(up) };
  const osb = async (name: string, ...args: readonly string[]): Promise<Answer> => {
    const { code, stdout, stderr } = await startCli([launcher], [...name.split(" "), "--json", ...args], {
      ...{ env, stdin: null },
    }).ended;
    assert.equal(code, 0, `${name}: ${stderr}`);
    const answer = JSON.parse(stdout.toString()) as Answer;
    shapes[name] = shapeOf(answer);
    return answer;
  };
  const { id } = await osb("create", "--image", "minimal", "--alias", "mine", "--metadata", "a=b");
  await osb("ls");
  await osb("get", id);
  await osb("exec", id, "--", "true");
  await osb("run", "--image", "minimal", "--", "true");
  const { id: session } = await osb("session start", id, "--", "sleep", "1000");
  await osb("session ls", id);
  await osb("session logs", id, session);
  await osb("session kill", id, session);
  const { id: agent } = await osb("agent start", id, "-e", "ANTHROPIC_API_KEY=none");
  await osb("agent ls", id);
  await osb("agent prompt", id, agent, "hello");
  await osb("agent interrupt", id, agent);
  await osb("agent kill", id, agent);
  await osb("logs", id, "--tail", "3");
  await writeFile(join(directory, "file"), "content");
  await osb("cp", join(directory, "file"), `${id}:file`);
  await osb("preview create", id, "3000");
  await osb("preview list", id);
  await osb("preview delete", id, "3000");
  await osb("network show", id);
  await osb("network set", id, "--off");
  await osb("timeout", id, "600");
  await osb("hibernate", id);
  await osb("wake", id);
  const { id: checkpoint } = await osb("checkpoint create", id, "--name", "before");
  await osb("checkpoint ls", id);
  await osb("checkpoint publish", checkpoint);
  const { id: fork } = await osb("fork", checkpoint, "--allow", "a.example", "--port", "80", "--preview-token", "auto");
  await osb("restore", id, checkpoint);
  await osb("reboot", id);
  await osb("kill", fork, id);
  await osb("checkpoint rm", id, checkpoint);
  await osb("snapshot ls");
  await osb("image ls");
  await osb("pool");
  await osb("doctor");
  await osb("config show");
  await osb("completion bash");
  await osb("version");
  t.assert.snapshot(shapes);
});

interface Answer {
  readonly id: string;
}

/** Names and kinds, without the values. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.slice(0, 1).map(shapeOf);
  if (typeof value !== "object" || value === null) return value === null ? "null" : typeof value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, part]) => [name, shapeOf(part)]),
  );
}
