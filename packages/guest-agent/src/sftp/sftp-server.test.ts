import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { MalformedPacket, PacketReader, sized, uint32, uint64 } from "./packet.ts";
import { SftpServer } from "./sftp-server.ts";

// The protocol below what OpenSSH's clients send: tests/e2e/ssh.process.test.ts uses those.

let directory = "";
let server: SftpServer;
let requestId = 0;
const path = (name: string): Buffer => sized(join(directory, name));
const packetOf = (type: number, ...fields: Buffer[]): Buffer =>
  sized(Buffer.concat([Buffer.from([type]), uint32(++requestId), ...fields]));

/** Sends a request and returns the kind of its answer with a reader of the rest. */
function ask(type: number, ...fields: Buffer[]): { kind: number; rest: PacketReader } {
  const answers = server.take(packetOf(type, ...fields));
  assert.equal(answers.length, 1);
  const rest = new PacketReader(answers[0]!.subarray(4));
  const kind = rest.byte();
  assert.equal(rest.uint32(), requestId);
  return { kind, rest };
}

function statusOf(type: number, ...fields: Buffer[]): number {
  const { kind, rest } = ask(type, ...fields);
  assert.equal(kind, 101);
  return rest.uint32();
}

/** Flags of an open: 1 read, 2 write, 4 append, 8 create, 16 truncate, 32 exclusive. */
function open(name: string, flags: number): Buffer {
  const { kind, rest } = ask(3, path(name), uint32(flags), uint32(0));
  assert.equal(kind, 102);
  return sized(rest.bytes());
}

suite("the SFTP server", () => {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "sftp-test-"));
    server = new SftpServer();
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  test("a file is written and read at any position, in any order", () => {
    const handle = open("file", 1 | 2 | 8);
    assert.equal(statusOf(6, handle, uint64(4), sized("5678")), 0);
    assert.equal(statusOf(6, handle, uint64(0), sized("1234")), 0);
    const { kind, rest } = ask(5, handle, uint64(2), uint32(4));
    assert.deepEqual([kind, rest.text()], [103, "3456"]);
    assert.equal(statusOf(5, handle, uint64(8), uint32(4)), 1, "end of file");
    assert.equal(statusOf(4, handle), 0);
    assert.equal(readFileSync(join(directory, "file"), "utf8"), "12345678");
  });

  test("a file opened to append ignores positions", () => {
    writeFileSync(join(directory, "log"), "one\n");
    const handle = open("log", 2 | 4);
    assert.equal(statusOf(6, handle, uint64(0), sized("two\n")), 0);
    assert.equal(readFileSync(join(directory, "log"), "utf8"), "one\ntwo\n");
  });

  test("a name that is not UTF-8 keeps its bytes", () => {
    const name = Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0xff, 0xfe])]);
    const opened = ask(3, sized(name), uint32(2 | 8), uint32(0));
    assert.equal(opened.kind, 102);
    const { rest } = ask(11, sized(directory));
    const handle = sized(rest.bytes());
    const entries = ask(12, handle);
    assert.deepEqual([entries.kind, entries.rest.uint32()], [104, 1]);
    assert.deepEqual(entries.rest.bytes(), Buffer.from([0xff, 0xfe]));
    assert.equal(statusOf(12, handle), 1, "no more entries");
    assert.equal(statusOf(4, handle), 0);
  });

  test("attributes are set by path, by handle, and on a link itself", () => {
    writeFileSync(join(directory, "file"), "content");
    symlinkSync("file", join(directory, "link"));
    assert.equal(statusOf(9, path("file"), uint32(4 | 8), uint32(0o600), uint32(100), uint32(200)), 0);
    const { mode, mtimeMs } = statSync(join(directory, "file"));
    assert.deepEqual([mode & 0o777, mtimeMs], [0o600, 200_000]);
    assert.equal(statusOf(10, open("file", 2), uint32(1), uint64(3)), 0);
    assert.equal(readFileSync(join(directory, "file"), "utf8"), "con");
    assert.equal(statusOf(200, sized("lsetstat@openssh.com"), path("link"), uint32(8), uint32(1), uint32(2)), 0);
    assert.notEqual(statSync(join(directory, "file")).mtimeMs, 2000);
  });

  test("a plain rename replaces nothing, the POSIX one does", () => {
    writeFileSync(join(directory, "a"), "a");
    writeFileSync(join(directory, "b"), "b");
    assert.equal(statusOf(18, path("a"), path("b")), 4);
    assert.equal(statusOf(200, sized("posix-rename@openssh.com"), path("a"), path("b")), 0);
    assert.equal(readFileSync(join(directory, "b"), "utf8"), "a");
  });

  test("the status names what failed", () => {
    assert.equal(statusOf(17, path("missing")), 2);
    assert.equal(statusOf(4, sized("nope")), 4, "a handle that is not open");
    assert.equal(statusOf(3, path("x"), uint32(0), uint32(0)), 5, "neither read nor write");
    assert.equal(statusOf(99), 8, "an unknown request");
    assert.equal(statusOf(200, sized("unknown@example.com")), 8);
    assert.equal(statusOf(12, open("x", 2 | 8)), 4, "entries of a file");
  });

  test("a path is resolved although its last part is missing", () => {
    const { kind, rest } = ask(16, sized(`${directory}/sub/../new`));
    assert.deepEqual([kind, rest.uint32(), rest.text()], [104, 1, join(directory, "new")]);
    const home = ask(200, sized("expand-path@openssh.com"), sized("~"));
    assert.equal(home.kind, 104);
  });

  test("packets arrive in any pieces, and several at once", () => {
    const packets = Buffer.concat([packetOf(17, path("missing")), packetOf(17, path("missing"))]);
    const answers = [...packets].flatMap((byte) => server.take(Buffer.from([byte])));
    assert.equal(answers.length, 2);
    assert.equal(server.take(packets).length, 2);
  });

  test("a client opens a bounded number of files", () => {
    const statuses = Array.from({ length: 1001 }, () => ask(3, path("many"), uint32(2 | 8), uint32(0)).kind);
    assert.deepEqual([statuses.slice(0, 1000).every((kind) => kind === 102), statuses[1000]], [true, 101]);
  });

  test("a malformed stream ends the service", () => {
    const cases = {
      "an empty packet": uint32(0),
      "a packet beyond the bound": uint32(0xffffffff),
      "a cut-off field": packetOf(17, uint32(100)),
      "a position beyond every file": packetOf(9, sized("a"), uint32(1), Buffer.alloc(8, 0xff)),
      "a path with a zero byte": packetOf(17, sized("a\0b")),
      "no request id": sized(Buffer.from([17])),
    };
    for (const [name, bytes] of Object.entries(cases)) {
      assert.throws(() => new SftpServer().take(bytes), MalformedPacket, name);
    }
  });

  test("random requests end in an answer or a refusal, never otherwise", () => {
    let seed = 1;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % below;
    };
    for (const name of ["r", "s"]) open(name, 1 | 2 | 8);
    // Without those that change files by a path: the paths are random.
    const types = [4, 5, 6, 7, 8, 10, 12, 16, 17, 19, 255];
    for (let round = 0; round < 3000; round += 1) {
      const fields = Array.from({ length: random(4) }, () =>
        random(2) === 0 ? path("r") : Buffer.from(Array.from({ length: random(12) }, () => random(256))),
      );
      try {
        server.take(packetOf(types[random(types.length)]!, ...fields));
      } catch (error) {
        assert.ok(error instanceof MalformedPacket, String(error));
        server = new SftpServer();
      }
    }
  });
});
