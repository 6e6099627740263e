import { SandboxError } from "@opensandbox/wire/errors.ts";

// The format: https://www.gnu.org/software/tar/manual/html_node/Standard.html, with the PAX headers of POSIX.1-2001 and
// GNU tar's long names and sparse files. Names and attributes are bytes, not text: a layer may hold any.

export type TarEntryType = "file" | "link" | "symlink" | "directory" | "fifo" | "device";

export interface TarEntry {
  readonly type: TarEntryType;
  /** Bytes as Latin-1 text: one character for each byte. */
  readonly path: string;
  /** Target of a link, in the same form. */
  readonly target: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Size of the file once it is unpacked. */
  readonly size: number;
  readonly attributes: ReadonlyMap<string, Buffer>;
  /** The parts of a sparse file that have content. Absent: all of it. */
  readonly segments?: readonly Segment[];
}

export interface Segment {
  readonly offset: number;
  readonly size: number;
}

const blockBytes = 512;
/** A PAX header holds names and attributes, and an attribute is at most 64 KiB (xattr(7)). */
const maxHeaderBytes = 2 ** 20;
const maxPathBytes = 4095;
const maxSegments = 65_536;
const maxAttributes = 64;

/**
 * Reads a tar archive as a stream: {@link next} for each entry, then {@link content} for what a file holds. Content that
 * is not read is skipped. Memory is bounded by the size of a chunk and of a header, whatever the archive says.
 */
export class TarReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Buffer = Buffer.alloc(0);
  #at = 0;
  /** Bytes before the present chunk. */
  #before = 0;
  /** Bytes of the present entry that are not read, and the padding behind them. */
  #left = 0;
  #padding = 0;
  #global: Pax = emptyPax();

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Where the content of the present entry begins, in bytes from the start of the archive. */
  get position(): number {
    return this.#before + this.#at;
  }

  /** @throws `invalid_argument` for what is no archive, or one that is cut short or exceeds a bound */
  async next(): Promise<TarEntry | undefined> {
    await this.#skip(this.#left + this.#padding);
    this.#left = this.#padding = 0;
    let pax = this.#global;
    let longPath: string | undefined;
    let longTarget: string | undefined;
    for (;;) {
      const header = await this.#header();
      if (header === undefined) return undefined;
      const type = String.fromCharCode(header[156] ?? 0);
      const size = numberAt(header, 124, 12);
      if (type === "x" || type === "g" || type === "L" || type === "K") {
        const body = await this.#body(size);
        if (type === "x") pax = parsePax(body, this.#global);
        else if (type === "g") this.#global = pax = parsePax(body, this.#global);
        else if (type === "L") longPath = untilZero(body);
        else longTarget = untilZero(body);
        continue;
      }
      return await this.#entry(header, type, size, { pax, longPath, longTarget });
    }
  }

  /** The bytes of the present entry: of a sparse file those of its segments, one after another. */
  async *content(): AsyncGenerator<Buffer> {
    while (this.#left > 0) {
      if (this.#at === this.#chunk.length) await this.#more();
      const part = this.#chunk.subarray(this.#at, this.#at + this.#left);
      this.#at += part.length;
      this.#left -= part.length;
      yield part;
    }
  }

  /** Reads what follows the end of the archive, so that a digest covers the whole stream. */
  async drain(): Promise<void> {
    while ((await this.#source.next()).done !== true);
  }

  async #entry(
    header: Buffer,
    letter: string,
    stored: number,
    { pax, longPath, longTarget }: Extended,
  ): Promise<TarEntry> {
    const { records } = pax;
    const storedSize = decimal(records, "size") ?? stored;
    const plainPath = longPath ?? pathOf(header);
    const path = text(records, "GNU.sparse.name") ?? text(records, "path") ?? plainPath;
    const target = longTarget ?? text(records, "linkpath") ?? untilZero(header.subarray(157, 257));
    if (path.length > maxPathBytes || target.length > maxPathBytes) {
      throw invalid(`a path has more than ${maxPathBytes} bytes`);
    }
    const type = typeOf(letter, path);
    this.#left = type === "file" ? storedSize : 0;
    this.#padding = type === "file" ? padding(storedSize) : 0;
    const sparse = type === "file" ? await this.#sparse(header, letter, pax) : undefined;
    return {
      type,
      path,
      target,
      mode: numberAt(header, 100, 8) & 0o7777,
      uid: decimal(records, "uid") ?? numberAt(header, 108, 8),
      gid: decimal(records, "gid") ?? numberAt(header, 116, 8),
      mtime: secondsOf(records) ?? numberAt(header, 136, 12),
      size: sparse?.size ?? this.#left,
      attributes: pax.attributes,
      ...(sparse === undefined ? {} : { segments: sparse.segments }),
    };
  }

  /** The map of a sparse file, in any of GNU tar's four forms. */
  async #sparse(
    header: Buffer,
    letter: string,
    { records, segments }: Pax,
  ): Promise<{ readonly size: number; readonly segments: readonly Segment[] } | undefined> {
    const realSize = decimal(records, "GNU.sparse.realsize") ?? decimal(records, "GNU.sparse.size");
    if (letter === "S") return this.#oldSparse(header);
    if (realSize === undefined) return undefined;
    const major = decimal(records, "GNU.sparse.major") ?? 0;
    if (major === 0) {
      const numbers = text(records, "GNU.sparse.map")?.split(",").map(Number);
      return {
        size: realSize,
        segments: checked(numbers === undefined ? segments : pairs(numbers), realSize, this.#left),
      };
    }
    // The map precedes the content as decimal lines, and fills whole blocks: the number of segments, then their numbers.
    const numbers: number[] = [];
    let line = "";
    for (let wanted = 1; numbers.length < wanted;) {
      const block = await this.#exactly(blockBytes);
      this.#left -= blockBytes;
      if (this.#left < 0) throw invalid("the map of a sparse file is longer than the file");
      for (const byte of block) {
        if (numbers.length === wanted) break;
        if (byte !== 10) {
          line += String.fromCharCode(byte);
          if (line.length > 20) throw invalid("the map of a sparse file holds something else than numbers");
          continue;
        }
        numbers.push(wholeNumber(line));
        line = "";
        if (numbers.length === 1) wanted = 1 + 2 * Math.min(numbers[0] ?? 0, maxSegments + 1);
      }
    }
    return { size: realSize, segments: checked(pairs(numbers.slice(1)), realSize, this.#left) };
  }

  async #oldSparse(header: Buffer): Promise<{ readonly size: number; readonly segments: readonly Segment[] }> {
    const size = numberAt(header, 483, 12);
    const segments: Segment[] = [];
    const take = (block: Buffer, at: number, count: number): void => {
      for (let index = 0; index < count; index++, at += 24) {
        const length = numberAt(block, at + 12, 12);
        if (block[at] === 0) return;
        segments.push({ offset: numberAt(block, at, 12), size: length });
      }
    };
    take(header, 386, 4);
    for (let extended = header[482] !== 0; extended;) {
      const block = await this.#exactly(blockBytes);
      take(block, 0, 21);
      if (segments.length > maxSegments) throw invalid(`a sparse file has more than ${maxSegments} parts`);
      extended = block[504] !== 0;
    }
    return { size, segments: checked(segments, size, this.#left) };
  }

  async #body(size: number): Promise<Buffer> {
    if (size > maxHeaderBytes) throw invalid(`a header has more than ${maxHeaderBytes} bytes`);
    const body = Buffer.from(await this.#exactly(size));
    await this.#skip(padding(size));
    return body;
  }

  /** The next header; undefined at the end, which is a block of zeros or the end of the stream. */
  async #header(): Promise<Buffer | undefined> {
    if (this.#at === this.#chunk.length && !(await this.#tryMore())) return undefined;
    const block = await this.#exactly(blockBytes);
    if (block.every((byte) => byte === 0)) return undefined;
    let sum = 8 * 32;
    for (let index = 0; index < blockBytes; index++) {
      if (index < 148 || index >= 156) sum += block[index] ?? 0;
    }
    if (sum !== numberAt(block, 148, 8)) throw invalid("a header has a wrong checksum");
    return block;
  }

  async #exactly(size: number): Promise<Buffer> {
    if (this.#at === this.#chunk.length && size > 0) await this.#more();
    if (this.#chunk.length - this.#at >= size) {
      this.#at += size;
      return this.#chunk.subarray(this.#at - size, this.#at);
    }
    const parts: Buffer[] = [];
    for (let missing = size; missing > 0;) {
      if (this.#at === this.#chunk.length) await this.#more();
      const part = this.#chunk.subarray(this.#at, this.#at + missing);
      this.#at += part.length;
      missing -= part.length;
      parts.push(part);
    }
    return Buffer.concat(parts, size);
  }

  async #skip(size: number): Promise<void> {
    for (let left = size; left > 0;) {
      if (this.#at === this.#chunk.length) await this.#more();
      const part = Math.min(left, this.#chunk.length - this.#at);
      this.#at += part;
      left -= part;
    }
  }

  async #more(): Promise<void> {
    if (!(await this.#tryMore())) throw invalid("it ends in the middle of an entry");
  }

  async #tryMore(): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#source.next();
      if (done === true) return false;
      if (value.length === 0) continue;
      this.#before += this.#chunk.length;
      this.#chunk = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
      this.#at = 0;
      return true;
    }
  }
}

/** What the headers before an entry's own say about it. */
interface Extended {
  readonly pax: Pax;
  readonly longPath: string | undefined;
  readonly longTarget: string | undefined;
}

interface Pax {
  readonly records: ReadonlyMap<string, Buffer>;
  readonly attributes: ReadonlyMap<string, Buffer>;
  /** From records of the oldest form of sparse files, which repeat. */
  readonly segments: readonly Segment[];
}

function emptyPax(): Pax {
  return { records: new Map(), attributes: new Map(), segments: [] };
}

const attributePrefix = "SCHILY.xattr.";

/** Parses records of the form `LENGTH KEY=VALUE\n`, whose length counts all of it. */
function parsePax(body: Buffer, inherited: Pax): Pax {
  const records = new Map(inherited.records);
  const attributes = new Map(inherited.attributes);
  const numbers: number[] = [];
  for (let at = 0; at < body.length;) {
    const space = body.indexOf(0x20, at);
    const length = space < 0 || space - at > 10 ? NaN : Number(body.toString("latin1", at, space));
    if (!Number.isSafeInteger(length) || length < space - at + 3 || at + length > body.length) {
      throw invalid("a PAX header is malformed");
    }
    const record = body.subarray(space + 1, at + length - 1);
    const equals = record.indexOf(0x3d);
    if (equals < 1) throw invalid("a PAX header has a record without a key");
    const key = record.toString("latin1", 0, equals);
    const value = record.subarray(equals + 1);
    if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes")
      numbers.push(wholeNumber(value.toString("latin1")));
    else if (key.startsWith(attributePrefix)) attributes.set(key.slice(attributePrefix.length), value);
    else if (value.length === 0) records.delete(key);
    else records.set(key, value);
    at += length;
  }
  if (attributes.size > maxAttributes) throw invalid(`a file has more than ${maxAttributes} extended attributes`);
  return { records, attributes, segments: pairs(numbers) };
}

function pairs(numbers: readonly number[]): readonly Segment[] {
  const segments: Segment[] = [];
  for (let at = 0; at + 1 < numbers.length; at += 2)
    segments.push({ offset: numbers[at] ?? 0, size: numbers[at + 1] ?? 0 });
  return segments;
}

/** @throws `invalid_argument` for segments out of order, beyond the file, or of another length than the content */
function checked(segments: readonly Segment[], size: number, stored: number): readonly Segment[] {
  let end = 0;
  let sum = 0;
  for (const segment of segments) {
    if (!(segment.offset >= end) || !(segment.size >= 0)) throw invalid("the parts of a sparse file overlap");
    end = segment.offset + segment.size;
    sum += segment.size;
  }
  if (segments.length > maxSegments) throw invalid(`a sparse file has more than ${maxSegments} parts`);
  if (!(end <= size) || sum !== stored) throw invalid("the map of a sparse file does not fit its size");
  return segments;
}

function typeOf(letter: string, path: string): TarEntryType {
  switch (letter) {
    case "\0":
    case "0":
      // Archives older than POSIX mark a directory by its name.
      return path.endsWith("/") ? "directory" : "file";
    case "7":
    case "S":
      return "file";
    case "1":
      return "link";
    case "2":
      return "symlink";
    case "3":
    case "4":
      return "device";
    case "5":
      return "directory";
    case "6":
      return "fifo";
    default:
      throw invalid(`an entry has the unknown type ${JSON.stringify(letter)}`);
  }
}

function pathOf(header: Buffer): string {
  const name = untilZero(header.subarray(0, 100));
  // GNU tar has other fields where POSIX has the prefix of the name.
  const isPosix = header.toString("latin1", 257, 263) === "ustar\0";
  const prefix = isPosix ? untilZero(header.subarray(345, 500)) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}

function untilZero(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("latin1", 0, end < 0 ? bytes.length : end);
}

function text(records: ReadonlyMap<string, Buffer>, key: string): string | undefined {
  const value = records.get(key);
  if (value?.includes(0) === true) throw invalid(`the PAX record ${key} contains a zero byte`);
  return value?.toString("latin1");
}

function decimal(records: ReadonlyMap<string, Buffer>, key: string): number | undefined {
  const value = records.get(key);
  return value === undefined ? undefined : wholeNumber(value.toString("latin1"));
}

function secondsOf(records: ReadonlyMap<string, Buffer>): number | undefined {
  const value = records.get("mtime")?.toString("latin1");
  if (value === undefined) return undefined;
  const seconds = Number(value);
  if (!/^-?\d{1,12}(\.\d*)?$/.test(value)) throw invalid("a PAX header has a malformed time");
  return seconds;
}

function wholeNumber(digits: string): number {
  const number = Number(digits);
  if (!/^\d{1,16}$/.test(digits) || !Number.isSafeInteger(number)) throw invalid("a header has a malformed number");
  return number;
}

/** A field of octal digits, or a number in base 256 when the first bit is set. */
function numberAt(header: Buffer, at: number, length: number): number {
  const field = header.subarray(at, at + length);
  const first = field[0] ?? 0;
  if (first === 0x80) {
    const value = field.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0);
    if (!Number.isSafeInteger(value)) throw invalid("a header has a number that is too large");
    return value;
  }
  // Negative numbers occur as times before 1970.
  if (first === 0xff) return 0;
  const digits = untilZero(field).trim();
  if (!/^[0-7]{0,12}$/.test(digits)) throw invalid("a header has a malformed number");
  return digits === "" ? 0 : Number.parseInt(digits, 8);
}

function padding(size: number): number {
  return (blockBytes - (size % blockBytes)) % blockBytes;
}

function invalid(what: string): SandboxError {
  return new SandboxError("invalid_argument", `the archive is damaged: ${what}`);
}
