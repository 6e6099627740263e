import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Random } from "./random.ts";

/** Messages nest at most this deep. */
const maxDepth = 3;

/**
 * The bytes of a random message of about `maxBytes` or less. Most are messages of the type `desc` with extreme values;
 * the others have fields of a wrong type, unknown fields, or no structure.
 */
export function randomMessage(random: Random, desc: DescMessage, maxBytes: number): Uint8Array {
  if (random.chance(4)) return random.bytes(random.size(Math.min(maxBytes, 4096)));
  if (random.chance(3)) return compressedLooking(random, maxBytes);
  if (random.chance(3)) return unknownFields(random.size(maxBytes));
  const writer = new BinaryWriter();
  writeFields(writer, random, desc, { bytes: maxBytes, isValid: random.chance(85) }, 0);
  const bytes = writer.finish();
  return random.chance(4) ? bytes.subarray(0, random.below(bytes.length + 1)) : bytes;
}

interface Budget {
  bytes: number;
  /** Every field has its type, and text is UTF-8. */
  readonly isValid: boolean;
}

function writeFields(writer: BinaryWriter, random: Random, desc: DescMessage, budget: Budget, depth: number): void {
  for (const field of desc.fields) {
    if (random.chance(15) || budget.bytes <= 0) continue;
    const isRepeated = field.fieldKind === "list" || field.fieldKind === "map";
    const limit = isRepeated ? random.size(random.chance(10) ? Math.max(budget.bytes / 2, 3) : 12) : 1;
    for (let count = 0; count < limit && budget.bytes > 0; count += 1) {
      writeField(writer, random, field, budget, depth);
    }
  }
}

function writeField(writer: BinaryWriter, random: Random, field: DescField, budget: Budget, depth: number): void {
  budget.bytes -= 2;
  if (!budget.isValid && random.chance(5)) return writeOfWrongType(writer, random, field.number);
  const nested = field.fieldKind === "message" || field.fieldKind === "list" ? field.message : undefined;
  if (nested !== undefined && depth < maxDepth) {
    writer.tag(field.number, WireType.LengthDelimited).fork();
    writeFields(writer, random, nested, budget, depth + 1);
    writer.join();
    return;
  }
  if (isLengthDelimited(field)) {
    const bytes = randomText(random, budget);
    budget.bytes -= bytes.length;
    writer.tag(field.number, WireType.LengthDelimited).bytes(bytes);
    return;
  }
  budget.bytes -= 5;
  writer.tag(field.number, WireType.Varint).uint64(randomNumber(random));
}

function isLengthDelimited(field: DescField): boolean {
  if (field.fieldKind === "message" || field.fieldKind === "map") return true;
  return field.fieldKind !== "enum" && (field.scalar === ScalarType.STRING || field.scalar === ScalarType.BYTES);
}

function writeOfWrongType(writer: BinaryWriter, random: Random, number: number): void {
  switch (random.below(4)) {
    case 0:
      writer.tag(number, WireType.Bit32).fixed32(random.below(2 ** 31));
      break;
    case 1:
      writer.tag(number, WireType.Bit64).fixed64(randomNumber(random));
      break;
    case 2:
      writer.tag(number, WireType.StartGroup);
      break;
    default:
      writer.tag(number, WireType.EndGroup);
  }
}

function randomNumber(random: Random): bigint {
  const extremes = [
    0n,
    1n,
    2n ** 31n - 1n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 53n,
    2n ** 63n - 1n,
    2n ** 63n,
    2n ** 64n - 1n,
  ];
  return random.chance(40) ? BigInt(random.below(2 ** 31)) : random.pick(extremes as [bigint, ...bigint[]]);
}

const texts = [
  "",
  "exec",
  "private",
  "file",
  "directory",
  "symlink",
  "lost",
  "not_found",
  "incompatible",
  "rate_limited",
  "/etc/passwd",
  "../../../etc/shadow",
  "__proto__",
  '{"resource":{},"id":[[[[]]]]}',
  "\u0000\u0007\u001b]0;title\u0007\u001b[2J\r\n",
  "\u{1f600}\u202e\u2028",
] as const;

function randomText(random: Random, { bytes: maxBytes, isValid }: Budget): Uint8Array {
  const kind = random.below(10);
  if (kind < 6) return Buffer.from(random.pick(texts));
  const length = random.size(Math.max(Math.min(maxBytes, random.chance(5) ? maxBytes : 300), 0));
  return kind < 8 || isValid ? Buffer.alloc(length, "x") : random.bytes(Math.min(length, 4096));
}

/** The head of a gzip stream, then one byte repeated. */
function compressedLooking(random: Random, maxBytes: number): Uint8Array {
  const bytes = new Uint8Array(random.size(maxBytes)).fill(random.below(256));
  bytes.set([0x1f, 0x8b, 0x08, 0x00].slice(0, bytes.length));
  return bytes;
}

/** As many fields as possible that no message has: each takes two bytes. */
export function unknownFields(length: number): Uint8Array {
  const varint15 = 15 << 3;
  const bytes = new Uint8Array(length);
  for (let at = 0; at + 1 < length; at += 2) bytes[at] = varint15;
  return bytes;
}
