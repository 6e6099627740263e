import assert from "node:assert/strict";
import { setImmediate as turn } from "node:timers/promises";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fastify from "fastify";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { BuildLog } from "#images/image.ts";
import type { ApiContext } from "../api-context.ts";
import { answerWithEvents } from "./build-events.ts";

type Work = (onLog: (log: BuildLog) => void) => Promise<unknown>;

/** A server whose one route answers with the events of `work`. */
async function serving(work: Work): Promise<{ url: string } & AsyncDisposable> {
  const app = fastify();
  const sandboxes = { log: () => {}, shutdown: { ending: new AbortController().signal } };
  const api = { timing: { keepAliveMs: 1 }, sandboxes } as unknown as ApiContext;
  app.get("/", async (request, reply) => {
    await answerWithEvents(api, { request, reply }, work);
  });
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  return { url, [Symbol.asyncDispose]: () => app.close() };
}

const line = (n: number): BuildLog => ({ step: 1, type: "run", message: `${n} ${"x".repeat(1000)}` });

/** The frames of a stream of events, without those that keep it alive. */
async function framesOf(response: Response): Promise<{ event: string | undefined; message: string }[]> {
  const frames = (await response.text()).split("\n\n").filter((frame) => frame !== "" && !frame.startsWith(":"));
  return frames.map((frame) => {
    const [, event, data = ""] = /^event: (\S+)\ndata: (.*)$/.exec(frame) ?? assert.fail(frame);
    const { message = "", error = "" } = JSON.parse(data) as { message?: string; error?: string };
    return { event, message: message + error };
  });
}

/** Memory that this process uses, after a garbage collection. */
function heldBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

for (const [what, end] of [
  ["the result", () => Promise.resolve({ message: "made" })],
  ["the error", () => Promise.reject(new SandboxError("unavailable", "made"))],
] as const) {
  test(`a log that nobody reads takes no memory: lines are left out and counted, and ${what} arrives`, async () => {
    const lines = 100_000;
    const logged = Promise.withResolvers<void>();
    const before = heldBytes();
    await using server = await serving(async (onLog) => {
      for (let n = 0; n < lines; n++) {
        onLog(line(n));
        if (n % 100 === 0) await turn();
      }
      logged.resolve();
      return end();
    });
    const response = await fetch(server.url);
    await logged.promise;
    await turn();
    // The log has 100 MB.
    const heldMb = (heldBytes() - before) / 1e6;
    assert.ok(heldMb < 20, `${Math.round(heldMb)} MB`);
    const frames = await framesOf(response);
    assert.equal(frames.at(-1)?.message, "made");
    const omitted = frames.map(({ message }) => Number(/^(\d+) lines are left out: /.exec(message)?.[1] ?? 0));
    const sent = frames.filter(({ message }) => message.endsWith("x"));
    assert.equal(sent.length + omitted.reduce((sum, count) => sum + count), lines);
  });
}

test("a client that reads gets every line", async () => {
  await using server = await serving(async (onLog) => {
    for (let n = 0; n < 1000; n++) {
      onLog(line(n));
      if (n % 10 === 0) await turn();
    }
    return { message: "made" };
  });
  const frames = await framesOf(await fetch(server.url));
  assert.deepEqual(
    frames.map(({ message }) => message),
    [...Array.from({ length: 1000 }, (_, n) => line(n).message), "made"],
  );
});
