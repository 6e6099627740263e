import assert from "node:assert/strict";
import { PassThrough, Readable, Writable } from "node:stream";
import { test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import type { Client, ExecOutput, ExecRequest } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { passThrough } from "./command-output.ts";
import { streamCommand } from "./stream-command.ts";
import { sink, testInterrupts } from "#testing/test-host.ts";

interface TestCommand {
  readonly client: Client;
  readonly requests: ExecRequest[];
  readonly stdin: string[];
  readonly signals: number[];
  print(pipe: "stdout" | "stderr", text: string): void;
  end(exitCode: number): void;
  fail(error: Error): void;
}

/** A command that the test controls. */
function testCommand(): TestCommand {
  const output = new PassThrough({ objectMode: true });
  const exit = Promise.withResolvers<number>();
  exit.promise.catch(() => undefined);
  const requests: ExecRequest[] = [];
  const stdin: string[] = [];
  const signals: number[] = [];
  const fail = (error: Error): void => {
    exit.reject(error);
    output.destroy(error);
  };
  const exec: Pick<Client["exec"], "stream"> = {
    async stream(_id, request, signal) {
      requests.push(request);
      signal?.addEventListener("abort", () => fail(new SandboxError("canceled", "canceled")));
      return {
        output: output as AsyncIterable<ExecOutput>,
        exitCode: exit.promise,
        write: async (bytes) => void stdin.push(Buffer.from(bytes).toString()),
        closeStdin: async () => void stdin.push("end"),
        kill: async (signal) => void signals.push(signal),
      };
    },
  };
  return {
    client: { exec } as Client,
    requests,
    stdin,
    signals,
    print: (pipe, text) => void output.write({ pipe, bytes: Buffer.from(text) }),
    end(exitCode) {
      exit.resolve(exitCode);
      output.end();
    },
    fail,
  };
}

function stand() {
  const command = testCommand();
  const interrupts = testInterrupts();
  const [stdout, stderr] = [sink(), sink()];
  const run = (options: { graceMs?: number; stdin?: Readable; stdout?: Writable } = {}) =>
    streamCommand(
      {
        client: command.client,
        sandboxId: "sb-1a2b3c4d",
        request: { cmd: "program" },
        stdin: options.stdin,
        output: passThrough({ stdout: options.stdout ?? stdout.stream, stderr: stderr.stream }),
        ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs }),
      },
      interrupts,
    );
  return { command, interrupts, stdout, stderr, run };
}

test("standard output and standard error stay apart, and the exit code is the command's", async () => {
  const { command, stdout, stderr, run } = stand();
  const code = run({ stdin: Readable.from([Buffer.from("in")]) });
  command.print("stdout", "out");
  command.print("stderr", "err");
  await new Promise(setImmediate);
  command.end(3);
  assert.equal(await code, 3);
  assert.deepEqual([stdout.text(), stderr.text(), command.stdin], ["out", "err", ["in", "end"]]);
  assert.deepEqual(command.requests, [{ cmd: "program", stdin: true }]);
});

test("open standard input does not delay the end", async () => {
  const { command, run } = stand();
  const stdin = new PassThrough();
  const code = run({ stdin });
  command.end(0);
  assert.equal(await code, 0);
  assert.ok(stdin.destroyed);
});

test("an interrupt goes to the command, whose exit code is the result", async () => {
  const { command, interrupts, run } = stand();
  const code = run({ graceMs: 60_000 });
  await new Promise(setImmediate);
  interrupts.send("SIGINT");
  assert.deepEqual(command.signals, [2]);
  command.end(7);
  assert.equal(await code, 7);
});

test("a second interrupt and the end of the grace period end the command", async () => {
  const twice = stand();
  const first = twice.run({ graceMs: 60_000 });
  await new Promise(setImmediate);
  twice.interrupts.send("SIGTERM");
  twice.interrupts.send("SIGINT");
  assert.equal(await first, 130);
  assert.deepEqual(twice.command.signals, [15, 2]);

  const stubborn = stand();
  const second = stubborn.run({ graceMs: 1 });
  await new Promise(setImmediate);
  stubborn.interrupts.send("SIGTERM");
  assert.equal(await second, 143);
});

test("a timeout exits with 124, and a missing command with 127", async () => {
  const late = stand();
  const first = late.run();
  late.command.end(-1);
  assert.equal(await first, 124);

  const missing = stand();
  const second = missing.run();
  missing.command.fail(new SandboxError("not_found", "command not found: x", { resource: "file", id: "x" }));
  assert.equal(await second, 127);
  assert.equal(missing.stderr.text(), "osb: command not found: x\n");
});

test("an unknown outcome is an error, not an exit code", async () => {
  const { command, run } = stand();
  const code = run();
  command.fail(new SandboxError("unavailable", "the machine has ended"));
  await assert.rejects(code, /the machine has ended/);
});

test("a closed output pipe ends the command quietly", async () => {
  const { command, run, stderr } = stand();
  const stdout = new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" })),
  });
  stdout.on("error", () => undefined);
  const code = run({ stdout });
  command.print("stdout", "y");
  assert.equal(await code, 141);
  assert.equal(stderr.text(), "");
});

test("a slow reader pauses the command, which can still be interrupted", async () => {
  const { command, interrupts, run } = stand();
  const stuck = new PassThrough({ highWaterMark: 1 });
  const code = run({ stdout: stuck, graceMs: 1 });
  for (let i = 0; i < 100; i++) command.print("stdout", "y".repeat(1000));
  await eventOf(stuck, "readable");
  interrupts.send("SIGINT");
  assert.equal(await code, 130);
  assert.ok(stuck.readableLength < 10_000);
});
