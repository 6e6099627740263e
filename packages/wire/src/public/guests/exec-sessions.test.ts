import assert from "node:assert/strict";
import { suite, test } from "node:test";
import * as fc from "fast-check";
import {
  decodeClientFrame,
  decodeServerFrame,
  encodeClientFrame,
  encodeServerFrame,
  exitFrameOf,
  type ServerFrame,
  sessionFrom,
  sessionReplyOf,
} from "./exec-sessions.ts";

const bytes = fc.uint8Array({ maxLength: 100 });

suite("the frames of an attached session", () => {
  test("match the published client byte for byte", () => {
    const payload = Uint8Array.of(0, 255, 10);
    assert.deepEqual([...encodeServerFrame({ pipe: "stdout", bytes: payload })], [1, 0, 255, 10]);
    assert.deepEqual([...encodeServerFrame({ pipe: "stderr", bytes: payload })], [2, 0, 255, 10]);
    assert.deepEqual([...encodeServerFrame({ pipe: "exit", exitCode: 258 })], [3, 0, 0, 1, 2]);
    assert.deepEqual([...encodeServerFrame({ pipe: "exit", exitCode: -1 })], [3, 255, 255, 255, 255]);
    assert.deepEqual([...encodeServerFrame({ pipe: "scrollback end" })], [4]);
    assert.deepEqual([...encodeClientFrame({ kind: "stdin", bytes: payload })], [0, 0, 255, 10]);
    assert.deepEqual([...encodeClientFrame({ kind: "stdin end" })], [5]);
  });

  test("decode to what was encoded", () => {
    const frame: fc.Arbitrary<ServerFrame> = fc.oneof(
      fc.record({ pipe: fc.constantFrom("stdout" as const, "stderr" as const), bytes }),
      fc.record({ pipe: fc.constant("exit" as const), exitCode: fc.integer() }),
      fc.record({ pipe: fc.constant("scrollback end" as const) }),
    );
    fc.assert(
      fc.property(frame, (sent) => {
        assert.deepEqual({ ...decodeServerFrame(encodeServerFrame(sent)) }, { ...sent });
      }),
    );
    fc.assert(
      fc.property(bytes, (sent) => {
        assert.deepEqual(decodeClientFrame(encodeClientFrame({ kind: "stdin", bytes: sent })), {
          kind: "stdin",
          bytes: sent,
        });
      }),
    );
  });

  test("carry the same output however it is cut", () => {
    const cuts = fc.array(fc.tuple(fc.constantFrom("stdout" as const, "stderr" as const), bytes), { maxLength: 30 });
    fc.assert(
      fc.property(cuts, (parts) => {
        const read = { stdout: [] as number[], stderr: [] as number[] };
        for (const [pipe, piece] of parts) {
          const frame = decodeServerFrame(encodeServerFrame({ pipe, bytes: piece }));
          if (frame?.pipe === "stdout" || frame?.pipe === "stderr") read[frame.pipe].push(...frame.bytes);
        }
        for (const pipe of ["stdout", "stderr"] as const) {
          const written = parts.filter(([name]) => name === pipe).flatMap(([, piece]) => [...piece]);
          assert.deepEqual(read[pipe], written);
        }
      }),
    );
  });

  test("of unknown kinds are ignored", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1 }), (message) => {
        const [kind = 0] = message;
        assert.equal(decodeClientFrame(message) === undefined, kind !== 0 && kind !== 5);
        const isShortExit = kind === 3 && message.length < 5;
        assert.equal(decodeServerFrame(message) === undefined, kind < 1 || kind > 4 || isShortExit);
      }),
    );
    assert.equal(decodeClientFrame(new Uint8Array()), undefined);
    assert.equal(decodeServerFrame(new Uint8Array()), undefined);
  });
});

test("only a real exit becomes an exit code, and a signal is -1", () => {
  assert.deepEqual(exitFrameOf({ exitCode: 7, signal: 0, timedOut: false }), { pipe: "exit", exitCode: 7 });
  assert.deepEqual(exitFrameOf({ exitCode: 0, signal: 9, timedOut: false }), { pipe: "exit", exitCode: -1 });
  assert.deepEqual(exitFrameOf({ exitCode: 0, signal: 9, timedOut: true }), { pipe: "exit", exitCode: -1 });
});

test("a command without arguments is a shell line, and is shown as requested", () => {
  const shown = (body: { cmd: string; args?: string[] }) => {
    const { id, command, purpose } = sessionFrom("id", { timeout: undefined, ...body });
    const session = { id, argv: command.argv, purpose, terminal: false, startedMs: 0, attached: 0 };
    const { command: cmd, args } = sessionReplyOf("sb-1", {
      ...session,
      stdoutBytes: 0,
      stderrBytes: 0,
      truncated: false,
    });
    return { cmd, args };
  };
  assert.deepEqual(shown({ cmd: "echo $HOME | cat" }), { cmd: "echo $HOME | cat", args: [] });
  assert.deepEqual(shown({ cmd: "bash", args: ["--norc", "+m"] }), { cmd: "bash", args: ["--norc", "+m"] });
});
