import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import * as fc from "fast-check";
import { OutputLog, type OutputReader } from "./output-log.ts";
import { SpillFile } from "./spill-file.ts";

const limits = { memory: 64, window: 32, block: 16, portion: 24 };

/**
 * Output as a list of [pipe, bytes]. Neighbours of one pipe are joined, since a reader may receive them in any pieces.
 */
type Stretches = [pipe: number, text: string][];

function joined(parts: Iterable<readonly [number, Uint8Array]>): Stretches {
  const stretches: Stretches = [];
  for (const [pipe, bytes] of parts) {
    const text = Buffer.from(bytes).toString("latin1");
    if (text === "") continue;
    const last = stretches.at(-1);
    if (last?.[0] === pipe) last[1] += text;
    else stretches.push([pipe, text]);
  }
  return stretches;
}

/** Reads to the end. `edgeAt`: the number of bytes before the edge. */
async function readAll(reader: OutputReader, pause: () => Promise<unknown> = async () => undefined) {
  const parts: [number, Uint8Array][] = [];
  let edgeAt: number | undefined;
  for (let next = await reader.take(); next !== undefined; next = await reader.take()) {
    if (next === "edge") {
      assert.equal(edgeAt, undefined, "the edge is reported once");
      edgeAt = parts.reduce((sum, [, bytes]) => sum + bytes.length, 0);
    } else {
      parts.push([next.pipe, Uint8Array.from(next.bytes)]);
    }
    await pause();
  }
  return { stretches: joined(parts), edgeAt };
}

const written = fc.array(fc.tuple(fc.constantFrom(1, 2), fc.uint8Array({ maxLength: 50 })), { maxLength: 60 });

suite("an output log", () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-log-"));
  });
  after(() => rm(directory, { recursive: true }));

  const logWith = (options: { keepAll: boolean; maxBytes?: number }) => {
    const spill = new SpillFile({
      directory,
      ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }),
    });
    return new OutputLog(spill, { keepAll: options.keepAll, limits });
  };

  test("gives every reader from the start the same stream, for any chunks and any time of attaching", async () => {
    await fc.assert(
      fc.asyncProperty(
        written,
        fc.nat(60),
        fc.array(fc.nat(3), { minLength: 1, maxLength: 5 }),
        async (parts, at, paces) => {
          const log = logWith({ keepAll: true });
          const reads: ReturnType<typeof readAll>[] = [];
          const join = (pace: number): void => {
            const pause = async (): Promise<void> => {
              for (let turns = 0; turns < pace; turns += 1) await turn();
            };
            reads.push(readAll(log.read({ fromStart: true }), pause));
          };
          for (const [index, [pipe, bytes]] of parts.entries()) {
            if (index === at) paces.forEach(join);
            await log.append(pipe, bytes);
          }
          log.close();
          if (at >= parts.length) paces.forEach(join);
          const expected = joined(parts);
          for (const { stretches, edgeAt } of await Promise.all(reads)) {
            assert.deepEqual(stretches, expected);
            const before = parts.slice(0, Math.min(at, parts.length)).reduce((sum, [, bytes]) => sum + bytes.length, 0);
            assert.equal(edgeAt, before);
          }
          log.dispose();
        },
      ),
    );
  });

  test("a reader attached from the start misses nothing, although old output is dropped", async () => {
    await fc.assert(
      fc.asyncProperty(written, fc.array(fc.nat(3), { minLength: 1, maxLength: 4 }), async (parts, paces) => {
        const log = logWith({ keepAll: false });
        const reads = paces.map((pace) => {
          const reader = log.read({ fromStart: false });
          return readAll(reader, async () => {
            for (let turns = 0; turns < pace; turns += 1) await turn();
          }).finally(() => reader[Symbol.dispose]());
        });
        for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
        log.close();
        for (const { stretches } of await Promise.all(reads)) assert.deepEqual(stretches, joined(parts));
        log.dispose();
      }),
    );
  });

  test("replays the end to a late reader, in whole blocks and within the limit", async () => {
    await fc.assert(
      fc.asyncProperty(written, async (parts) => {
        const log = logWith({ keepAll: false });
        for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
        log.close();
        const { stretches } = await readAll(log.read({ fromStart: true }));
        const all = joined(parts).flatMap(([pipe, text]) => text.split("").map((character) => `${pipe}${character}`));
        const replayed = stretches.flatMap(([pipe, text]) => text.split("").map((character) => `${pipe}${character}`));
        assert.deepEqual(replayed, all.slice(all.length - replayed.length));
        assert.ok(replayed.length <= limits.memory);
        assert.ok(replayed.length === all.length || replayed.length > limits.memory - limits.block);
        log.dispose();
      }),
    );
  });

  test("replay and new output follow each other without a gap", async () => {
    const visit = fc.record({
      comes: fc.nat(60),
      pace: fc.nat(3),
      leavesAfter: fc.option(fc.integer({ min: 1, max: 40 }), { nil: Infinity }),
    });
    const part = fc.tuple(fc.constantFrom(1, 2), fc.uint8Array({ minLength: 10, maxLength: 50 }));
    const much = fc.array(part, { minLength: 5, maxLength: 60 });
    const visits = fc.array(visit, { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(much, visits, async (parts, guests) => {
        const log = logWith({ keepAll: false });
        const all = parts.flatMap(([pipe, bytes]) => [...bytes].map((byte) => pipe * 256 + byte));
        const comesAt = ({ comes }: { comes: number }): number => comes % (parts.length + 1);
        let sent = 0;
        const reads: Promise<void>[] = [];
        const listen = async ({ pace, leavesAfter }: { pace: number; leavesAfter: number }): Promise<void> => {
          using reader = log.read({ fromStart: false });
          const before = sent;
          const received: number[] = [];
          let replayed = 0;
          let isLive = false;
          let next = await reader.take();
          for (let live = 0; next !== undefined && live < leavesAfter; live += isLive ? 1 : 0) {
            if (next === "edge") {
              isLive = true;
              replayed = received.length;
            } else {
              for (const byte of next.bytes) received.push(next.pipe * 256 + byte);
            }
            for (let turns = 0; turns < pace; turns += 1) await turn();
            next = await reader.take();
          }
          assert.ok(isLive, "the edge is reported");
          assert.ok(
            replayed > Math.min(before, limits.memory) - limits.block,
            `${replayed} of ${before} were replayed`,
          );
          const from = before - replayed;
          assert.deepEqual(received, all.slice(from, next === undefined ? undefined : from + received.length));
        };
        for (const [index, [pipe, bytes]] of parts.entries()) {
          for (const guest of guests) if (comesAt(guest) === index) reads.push(listen(guest));
          const room = log.append(pipe, bytes);
          sent += bytes.length;
          await room;
        }
        for (const guest of guests) if (comesAt(guest) === parts.length) reads.push(listen(guest));
        log.close();
        await Promise.all(reads);
        log.dispose();
      }),
    );
  });

  test("gives a reader one pipe alone on request", async () => {
    await fc.assert(
      fc.asyncProperty(written, fc.constantFrom(1, 2), async (parts, wanted) => {
        const log = logWith({ keepAll: true });
        for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
        log.close();
        const { stretches, edgeAt } = await readAll(log.read({ fromStart: true, pipes: [wanted] }));
        assert.notEqual(edgeAt, undefined);
        assert.deepEqual(stretches, joined(parts.filter(([pipe]) => pipe === wanted)));
        log.dispose();
      }),
    );
  });

  test("reads the same after it has moved to the file", async () => {
    await fc.assert(
      fc.asyncProperty(written, fc.boolean(), fc.boolean(), async (parts, keepAll, fromStart) => {
        const log = logWith({ keepAll });
        for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
        log.close();
        const { stretches: before } = await readAll(log.read({ fromStart }));
        await log.leaveMemory();
        assert.equal(log.memoryBytes, 0);
        const { stretches } = await readAll(log.read({ fromStart }));
        assert.deepEqual(stretches, before);
        assert.equal(log.truncated, false);
        log.dispose();
      }),
    );
  });

  test("the writer waits for a sole reader, and never without readers", async () => {
    const log = logWith({ keepAll: false });
    const reader = log.read({ fromStart: false });
    let waiting: Promise<void> | undefined;
    let sent = 0;
    while (waiting === undefined && sent < 1000) {
      waiting = log.append(1, Buffer.alloc(8));
      sent += 8;
    }
    assert.ok(sent <= limits.window + 16, `${sent} bytes went before the writer was made to wait`);
    let released = false;
    void waiting?.then(() => {
      released = true;
    });
    await turn();
    assert.equal(released, false);
    reader[Symbol.dispose]();
    await waiting;
    for (let index = 0; index < 100; index += 1) assert.equal(log.append(1, Buffer.alloc(8)), undefined);
    log.dispose();
  });

  test("a stalled reader blocks nobody while others read, and continues where it stopped", async () => {
    const log = logWith({ keepAll: false });
    const slow = log.read({ fromStart: false });
    const fast = log.read({ fromStart: false });
    const reading = readAll(fast);
    const parts: [number, Buffer][] = Array.from({ length: 200 }, (_, index) => [
      1 + (index % 2),
      Buffer.from(`${index},`),
    ]);
    for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
    log.close();
    assert.deepEqual((await reading).stretches, joined(parts));
    fast[Symbol.dispose]();
    assert.deepEqual((await readAll(slow)).stretches, joined(parts));
    slow[Symbol.dispose]();
    log.dispose();
  });

  test("a reader that attaches during a spill starts with the output that stays in memory", async () => {
    const roomy = { memory: 1e6, window: 1e9, block: 16, portion: 1e6 };
    const log = new OutputLog(new SpillFile({ directory }), { keepAll: false, limits: roomy });
    using behind = log.read({ fromStart: false });
    let written = 0;
    // One block for each byte, as from a program that writes to both pipes in turn.
    const write = (blocks: number): (Promise<void> | undefined)[] =>
      Array.from({ length: blocks }, () => log.append(1 + (written % 2), Buffer.of(written++ % 251)));
    const full = [...write(8193), ...write(4100)];
    // The reader passes the first half while it is moved to the file, so only a part of the next half has to be kept.
    assert.equal(await behind.take(), "edge");
    for (let block = 0; block < 6000; block += 1) await behind.take();
    const all = log.memoryBytes;
    await eventually("the log moves output to the file", () => log.memoryBytes !== all);
    using late = log.read({ fromStart: false });
    for (const room of full) await room;
    log.close();
    const received: number[] = [];
    for (let next = await late.take(); next !== undefined; next = await late.take()) {
      if (next !== "edge") received.push(...next.bytes);
    }
    const expected = Array.from({ length: received.length }, (_, index) => (written - received.length + index) % 251);
    assert.ok(received.length > 4000, `${received.length} bytes`);
    assert.deepEqual(received, expected);
    log.dispose();
  });

  test("a reader that detaches during a spill loses nothing for a slower one", async () => {
    for (let turns = 0; turns < 50; turns += 1) {
      const log = new OutputLog(new SpillFile({ directory }), { keepAll: false, limits: { ...limits, window: 1e9 } });
      using behind = log.read({ fromStart: false });
      const leaving = log.read({ fromStart: false });
      let sent = 0;
      const fill = (): Promise<void> => {
        // Each append fills one block.
        for (;;) {
          const room = log.append(1 + (sent % 2), Buffer.alloc(limits.block, sent));
          sent += 1;
          if (log.memoryBytes > limits.memory + limits.portion) return room!;
        }
      };
      await fill();
      // Both readers have read the file's present content, and none of the blocks that move there next.
      for (const reader of [behind, leaving]) for (let taken = 0; taken < 3; taken += 1) await reader.take();
      const moved = fill();
      for (let waited = 0; waited < turns; waited += 1) await Promise.resolve();
      leaving[Symbol.dispose]();
      await moved;
      log.close();
      const expected = joined(
        Array.from({ length: sent - 2 }, (_, index) => [1 + (index % 2), Buffer.alloc(limits.block, index + 2)]),
      );
      assert.deepEqual((await readAll(behind)).stretches, expected);
      log.dispose();
    }
  });

  test("output that cannot be stored ends slow readers with an error and marks kept output as truncated", async () => {
    for (const keepAll of [false, true]) {
      const log = logWith({ keepAll, maxBytes: 100 });
      const slow = log.read({ fromStart: false });
      const fast = log.read({ fromStart: false });
      const reading = readAll(fast);
      const parts: [number, Buffer][] = Array.from({ length: 100 }, (_, index) => [1, Buffer.from(`${index},`)]);
      for (const [pipe, bytes] of parts) await log.append(pipe, bytes);
      log.close();
      assert.deepEqual((await reading).stretches, joined(parts));
      await assert.rejects(readAll(slow), (error) => isSandboxError(error, "quota_exceeded"));
      assert.equal(log.truncated, keepAll);
      const { stretches } = await readAll(log.read({ fromStart: true }));
      assert.ok(stretches.length > 0);
      log.dispose();
    }
  });

  test("leaves no file behind", async () => {
    const log = logWith({ keepAll: true });
    await log.append(1, Buffer.alloc(1000));
    assert.deepEqual(await readdir(directory), []);
    log.dispose();
  });

  test("a removed log ends its readers", async () => {
    const log = logWith({ keepAll: false });
    const reader = log.read({ fromStart: false });
    assert.equal(await reader.take(), "edge");
    const next = reader.take();
    log.dispose();
    await assert.rejects(next, (error) => isSandboxError(error, "unavailable"));
  });
});
