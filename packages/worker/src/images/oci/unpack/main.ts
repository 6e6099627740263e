// The process that unpacks an image's layers. It has an empty network and the rights over files that ownership needs, and
// the directory of the image as its root: whatever a layer says, nothing else of the host is there for it. Requests and
// layers come on standard input, replies go to standard output.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { writeSync } from "node:fs";
import { asSandboxError, errorToWire, SandboxError } from "@opensandbox/wire/errors.ts";
import { changeRoot } from "#host/kernel/libc.ts";
import { TarReader } from "../tar-reader.ts";
import type { UnpackReply, UnpackRequest } from "./messages.ts";
import { prepareGuest } from "./prepare-guest.ts";
import { Unpacker } from "./unpacker.ts";

/** Content that shrinks by more than this is made to fill disks. Real layers shrink to a third. */
const maxRatio = 200;
/** Below this size a layer may have any ratio. */
const freeBytes = 100 * 2 ** 20;
const maxLineBytes = 2 ** 20;

let rest: Buffer = Buffer.alloc(0);
const input = process.stdin[Symbol.asyncIterator]() as AsyncIterator<Buffer>;

try {
  await serve();
} catch (error) {
  reply({ kind: "failed", error: errorToWire(asSandboxError(error)) });
  process.exit(1);
}

async function serve(): Promise<void> {
  const first = await request();
  if (first?.kind !== "begin") throw new SandboxError("internal", "the first request must name the root");
  changeRoot(first.root);
  process.umask(0o022);
  const unpacker = new Unpacker(first);
  let bytes = 0;
  for (let next = await request(); next !== undefined; next = await request()) {
    if (next.kind === "layer") {
      bytes += await unpack(unpacker, next, first.maxBytes - bytes);
      reply({ kind: "layer", entries: unpacker.entries, bytes });
    } else if (next.kind === "finish") {
      prepareGuest(next.config);
      unpacker.finish();
      reply({ kind: "finished" });
    }
  }
}

/** Unpacks the layer that follows and returns the number of its uncompressed bytes. */
async function unpack(
  unpacker: Unpacker,
  { size, compression, diffId, directory }: Extract<UnpackRequest, { kind: "layer" }>,
  maxBytes: number,
): Promise<number> {
  const hash = createHash("sha256");
  let bytes = 0;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const part of decompressed(take(size), compression)) {
      hash.update(part);
      bytes += part.length;
      if (bytes > maxBytes) throw refused("its layers are larger than an image may be");
      if (bytes > freeBytes && bytes > maxRatio * size)
        throw refused(`a layer grows to more than ${maxRatio} times its size`);
      yield part;
    }
  }
  const reader = new TarReader(counted());
  await unpacker.unpack(reader, directory);
  await reader.drain();
  const found = `sha256:${hash.digest("hex")}`;
  if (diffId !== undefined && found !== diffId) throw refused(`a layer has the digest ${found} instead of ${diffId}`);
  return bytes;
}

async function* decompressed(source: AsyncIterable<Buffer>, compression: string): AsyncGenerator<Uint8Array> {
  if (compression === "none") {
    yield* source;
    return;
  }
  const chunkSize = 256 * 1024;
  const stream = compression === "gzip" ? createGunzip({ chunkSize }) : createZstdDecompress({ chunkSize });
  const from = Readable.from(source, { objectMode: false });
  from.on("error", (error) => stream.destroy(error));
  try {
    yield* from.pipe(stream) as AsyncIterable<Uint8Array>;
  } catch (cause) {
    throw refused(`a layer is no ${compression} stream: ${(cause as Error).message}`, cause);
  }
}

/** The next bytes of standard input. */
async function* take(size: number): AsyncGenerator<Buffer> {
  for (let left = size; left > 0;) {
    if (rest.length === 0 && !(await more())) throw new SandboxError("canceled", "the worker sent no whole layer");
    const part = rest.subarray(0, left);
    rest = rest.subarray(part.length);
    left -= part.length;
    yield part;
  }
}

async function request(): Promise<UnpackRequest | undefined> {
  let line: Buffer = Buffer.alloc(0);
  for (;;) {
    const end = rest.indexOf(10);
    line = Buffer.concat([line, end < 0 ? rest : rest.subarray(0, end)]);
    rest = end < 0 ? Buffer.alloc(0) : rest.subarray(end + 1);
    if (end >= 0) return JSON.parse(line.toString()) as UnpackRequest;
    if (line.length > maxLineBytes) throw new SandboxError("internal", "a request is too long");
    if (!(await more())) return undefined;
  }
}

async function more(): Promise<boolean> {
  const { done, value } = await input.next();
  if (done !== true) rest = value;
  return done !== true;
}

function reply(message: UnpackReply): void {
  writeSync(1, `${JSON.stringify(message)}\n`);
}

function refused(what: string, cause?: unknown): SandboxError {
  return new SandboxError("invalid_argument", `the image is refused: ${what}`, { cause });
}
