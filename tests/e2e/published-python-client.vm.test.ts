import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { Sandbox } from "@opensandbox/sdk";
import { startWorld, type World } from "./world.ts";

const run = promisify(execFile);

/** The client on PyPI, which needs Python 3.10. */
const client = "opencomputer-sdk==1.1.0";

interface Step {
  readonly value?: unknown;
  readonly error?: string;
  readonly seconds: number;
}

// The published Python client, unmodified and with its own deadlines (30 s), against real machines.
suite("the published Python client", { skip: whyNot() }, () => {
  let directory: string;
  let world: World;
  let steps: ReadonlyMap<string, Step>;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-python-"));
    const python = join(directory, "venv", "bin", "python");
    await run("python3", ["-m", "venv", join(directory, "venv")], { timeout: 120_000 });
    await run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", client], { timeout: 300_000 });
    world = await startWorld();
    const { url, apiKey } = world;
    // Makes the image's template, which takes longer than the client waits.
    await (await Sandbox.create({ url, apiKey })).kill();
    // The client opens terminals below the address as it is given, and everything else below /api.
    const env = { ...process.env, OPENCOMPUTER_API_URL: `${url}/api`, OPENCOMPUTER_API_KEY: apiKey };
    const script = join(import.meta.dirname, "published-python-client.py");
    const { stdout } = await run(python, [script], { env, timeout: 1_500_000 });
    const lines = stdout.trim().split("\n");
    steps = new Map(lines.map((line) => JSON.parse(line) as Step & { step: string }).map((one) => [one.step, one]));
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  function valueOf(name: string): unknown {
    const step = steps.get(name) ?? assert.fail(`the client did not reach ${name}`);
    assert.equal(step.error, undefined, `after ${step.seconds} s`);
    return step.value;
  }

  for (const diskMb of [20_480, 30_720, 262_144]) {
    test(`disk_mb=${diskMb} is the size of the workspace`, (t) => {
      const sizeMb = Number(valueOf(`disk ${diskMb}`));
      assert.ok(sizeMb > 0.95 * diskMb && sizeMb <= diskMb, `${sizeMb} MB`);
      t.diagnostic(`${steps.get(`disk ${diskMb}`)?.seconds} s`);
    });
  }

  for (const memoryMb of [512, 2048, 8192]) {
    test(`memory_mb=${memoryMb} is the memory of commands`, (t) => {
      const [, limitBytes = 0] = String(valueOf(`memory ${memoryMb}`))
        .split("\n")
        .map(Number);
      const limitMb = limitBytes / 2 ** 20;
      assert.ok(limitMb > 0.7 * memoryMb && limitMb <= memoryMb, `${limitMb} MB`);
      t.diagnostic(`${steps.get(`memory ${memoryMb}`)?.seconds} s`);
    });
  }

  const expected: Readonly<Record<string, unknown>> = {
    create: true,
    commands: [3, "out\n/tmp\na b\n", "err\n"],
    files: [
      [
        ["bytes", false, 256_000],
        ["inner", true, 4096],
        ["text", false, 8],
      ],
      "grüße\n",
      true,
      false,
    ],
    sessions: [[["cat", true]], -1, ["yes", "/tmp"]],
    terminal: true,
    resizing: [2048, [true, true], true, 1024],
    sleeping: [false, "kept\n", true],
    checkpoints: [true, 1, ["before", "patched"], ["before"], 0],
    previews: [8080, [8080], []],
    links: [204, "linked", []],
    tokens: [true, true],
    restarts: ["kept", "kept"],
    delete: true,
    images: [true, ["made"], "ready", ["python-client"], "python-client", ["made"]],
  };
  for (const [name, value] of Object.entries(expected)) test(name, () => assert.deepEqual(valueOf(name), value));

  test("the client completes its steps", () => assert.ok(steps.has("ended")));
});

function whyNot(): string | false {
  try {
    execFileSync("python3", ["-c", "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"], {
      stdio: "ignore",
    });
    return false;
  } catch {
    return "this host has no Python 3.10 or newer with venv";
  }
}
