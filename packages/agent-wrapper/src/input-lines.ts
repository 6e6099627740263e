/** A limit in bytes, far above the length of any prompt. */
const maxLineBytes = 16 * 2 ** 20;

/** Stands for a line that exceeds the limit. */
export const tooLong = Symbol("too long");

/** The lines of a stream of bytes, without empty ones. A line above 16 MiB is skipped and reported as {@link tooLong}. */
export async function* inputLines(input: AsyncIterable<Uint8Array>): AsyncGenerator<string | typeof tooLong> {
  let parts: Uint8Array[] = [];
  let length = 0;
  let skipping = false;
  for await (const chunk of input) {
    let from = 0;
    for (let at = chunk.indexOf(newline); at !== -1; at = chunk.indexOf(newline, from)) {
      parts.push(chunk.subarray(from, at));
      if (!skipping) yield* textOf(parts);
      parts = [];
      length = 0;
      skipping = false;
      from = at + 1;
    }
    if (skipping) continue;
    parts.push(chunk.subarray(from));
    length += chunk.length - from;
    if (length > maxLineBytes) {
      yield tooLong;
      parts = [];
      skipping = true;
    }
  }
  if (!skipping) yield* textOf(parts);
}

const newline = 0x0a;

function textOf(parts: readonly Uint8Array[]): string[] {
  const text = Buffer.concat(parts).toString().trim();
  return text === "" ? [] : [text];
}
