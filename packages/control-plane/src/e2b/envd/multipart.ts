import { SandboxError } from "@opensandbox/wire/errors.ts";

/** One part of a `multipart/form-data` body. */
export interface FormPart {
  readonly name: string;
  /** Undefined for a plain field. Slashes are kept. */
  readonly filename: string | undefined;
  /** To be read to its end, or not at all, before the next part is asked for. */
  readonly content: AsyncGenerator<Uint8Array>;
}

const maxHeaderBytes = 16 * 1024;
const maxParts = 10_000;

/** The boundary that a Content-Type names. */
export function boundaryOf(contentType: string | undefined): string | undefined {
  const match = /^multipart\/form-data\s*;.*?boundary=(?:"([^"]{1,200})"|([^\s;]{1,200}))/i.exec(contentType ?? "");
  return match?.[1] ?? match?.[2];
}

/** The parts of a body, as they arrive (RFC 7578). @throws `invalid_argument` */
export async function* partsOf(body: AsyncIterable<Uint8Array>, boundary: string): AsyncGenerator<FormPart> {
  const reader = new Reader(body);
  // The first boundary need not follow a line break.
  reader.unread(Buffer.from("\r\n"));
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  await skip(reader.until(delimiter));
  for (let parts = 0; ; parts += 1) {
    const next = (await reader.take(2)).toString("latin1");
    if (next === "--") return;
    if (next !== "\r\n") throw invalid("a boundary is followed by neither a line break nor --");
    if (parts >= maxParts) throw invalid(`it has more than ${maxParts} parts`);
    reader.unread(Buffer.from("\r\n"));
    const headers = await textOf(reader.until(Buffer.from("\r\n\r\n")));
    const content = reader.until(delimiter);
    yield { ...namesIn(headers), content };
    await skip(content);
  }
}

function namesIn(headers: string): Pick<FormPart, "name" | "filename"> {
  const disposition = /^content-disposition:(.*)$/im.exec(headers)?.[1] ?? "";
  const name = /;\s*name="([^"]*)"/i.exec(disposition)?.[1];
  if (name === undefined) throw invalid("a part has no name");
  const filename = /;\s*filename="([^"]*)"/i.exec(disposition)?.[1];
  return { name: unescaped(name), filename: filename === undefined ? undefined : unescaped(filename) };
}

/** Undoes the escaping of browsers (HTML, "multipart form data"), which leaves every other percent sign alone. */
function unescaped(text: string): string {
  return text.replaceAll(/%(22|0D|0A)/gi, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
}

async function skip(content: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of content);
}

async function textOf(content: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of content) {
    length += chunk.length;
    if (length > maxHeaderBytes) throw invalid("the headers of a part are too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

class Reader {
  readonly #source: AsyncIterator<Uint8Array>;
  #buffer: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  unread(bytes: Buffer): void {
    this.#buffer = Buffer.concat([bytes, this.#buffer]);
  }

  async take(length: number): Promise<Buffer> {
    while (this.#buffer.length < length) await this.#more();
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }

  /** Everything before the delimiter, which is consumed too. */
  async *until(delimiter: Buffer): AsyncGenerator<Uint8Array> {
    for (;;) {
      const at = this.#buffer.indexOf(delimiter);
      if (at !== -1) {
        const last = this.#buffer.subarray(0, at);
        this.#buffer = this.#buffer.subarray(at + delimiter.length);
        if (last.length > 0) yield last;
        return;
      }
      // The end of the buffer may be the beginning of the delimiter.
      const certain = this.#buffer.length - delimiter.length + 1;
      if (certain > 0) {
        const chunk = this.#buffer.subarray(0, certain);
        this.#buffer = this.#buffer.subarray(certain);
        yield chunk;
      }
      await this.#more();
    }
  }

  async #more(): Promise<void> {
    const { done, value } = await this.#source.next();
    if (done === true) throw invalid("it is cut off");
    this.#buffer = this.#buffer.length === 0 ? Buffer.from(value) : Buffer.concat([this.#buffer, value]);
  }
}

function invalid(why: string): SandboxError {
  return new SandboxError("invalid_argument", `the multipart body is not valid: ${why}`);
}
