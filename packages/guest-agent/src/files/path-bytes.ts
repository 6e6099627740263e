import { isUtf8 } from "node:buffer";

/**
 * A name on a Linux file system is any bytes, and a path on our wires is text. Bytes that are not UTF-8 are therefore
 * carried as characters of Unicode's last private range, U+10FF80 to U+10FFFF, one for each byte from 0x80 to 0xFF.
 * A name that has such a character itself is carried byte by byte too, so every name has one text and every text one
 * name.
 */
const firstEscape = 0x10ff00;
const escapes = /[\u{10ff80}-\u{10ffff}]/u;

/** The text of a name as the kernel gives it. */
export function textOfPath(bytes: Buffer): string {
  if (isUtf8(bytes)) {
    const text = bytes.toString();
    if (!escapes.test(text)) return text;
  }
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const length = sequenceLength(bytes[at] ?? 0);
    const sequence = bytes.subarray(at, at + length);
    const character = sequence.length === length && isUtf8(sequence) ? sequence.toString() : undefined;
    if (character === undefined || escapes.test(character)) {
      text += String.fromCodePoint(firstEscape + (bytes[at] ?? 0));
      at += 1;
    } else {
      text += character;
      at += length;
    }
  }
  return text;
}

/** The kernel's form of a text: the text itself, or the bytes from which {@link textOfPath} made it. */
export function bytesOfPath(text: string): string | Buffer {
  if (!escapes.test(text)) return text;
  return Buffer.concat(
    Array.from(text, (character) =>
      escapes.test(character) ? Buffer.of((character.codePointAt(0) ?? 0) - firstEscape) : Buffer.from(character),
    ),
  );
}

/** The length of a UTF-8 sequence in bytes, given by its first byte (RFC 3629 section 3). */
function sequenceLength(first: number): number {
  if (first >= 0xf0) return 4;
  if (first >= 0xe0) return 3;
  return first >= 0xc0 ? 2 : 1;
}
