import { createHash } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A public key of a client. */
export interface PublicKey {
  readonly type: string;
  /** The key as it is sent over SSH (RFC 4253, section 6.6), in base64. */
  readonly blob: string;
  /** As `ssh-keygen -l` prints it. */
  readonly fingerprint: string;
  readonly comment: string;
}

/** Bits of an RSA modulus: fewer are weak, and checking a signature of more takes long. */
const rsaBits = { min: 2048, max: 16_384 };

/** The bytes of a point on each curve, uncompressed. */
const pointBytes: Readonly<Record<string, number>> = { nistp256: 65, nistp384: 97, nistp521: 133 };

/** Reads a line of a `.pub` file. @throws `invalid_argument` for a private, malformed, weak or unsupported key */
export function parsePublicKey(line: string): PublicKey {
  if (line.includes("PRIVATE KEY"))
    throw invalid("this is a private key: keep it secret, and add the .pub file beside it");
  const [, type = "", blob = "", comment = ""] =
    /^(\S+)[ \t]+([A-Za-z0-9+/]+={0,2})(?:[ \t]+([^\r\n]*))?$/.exec(line) ?? [];
  if (type === "") throw invalid("the public key is malformed: use the whole line of a .pub file");
  const bytes = Buffer.from(blob, "base64");
  const fields = fieldsOf(bytes);
  if (fields?.[0]?.toString("latin1") !== type)
    throw invalid("the public key is malformed: its type and content differ");
  const problem = problemOf(type, fields.slice(1));
  if (problem !== undefined) throw invalid(problem);
  return {
    type,
    blob: bytes.toString("base64"),
    fingerprint: fingerprintOf(bytes),
    comment: comment.trim().slice(0, 255),
  };
}

export function fingerprintOf(blob: Buffer): string {
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replaceAll("=", "")}`;
}

function problemOf(type: string, fields: readonly Buffer[]): string | undefined {
  const malformed = `the public key is malformed: it is not a key of type ${type}`;
  const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = fields;
  if (type === "ssh-ed25519") return fields.length === 1 && first.length === 32 ? undefined : malformed;
  if (type === "ssh-rsa") {
    if (fields.length !== 2 || first.length === 0 || first.length > 8) return malformed;
    const bits = second.length * 8 - (second[0] === 0 ? 8 : 0);
    if (bits >= rsaBits.min && bits <= rsaBits.max) return undefined;
    return `the RSA key has ${bits} bits: use one of ${rsaBits.min} to ${rsaBits.max}, or an ssh-ed25519 key`;
  }
  const curve = /^ecdsa-sha2-(nistp(?:256|384|521))$/.exec(type)?.[1];
  if (curve !== undefined) {
    const isPoint = second.length === pointBytes[curve] && second[0] === 4;
    return fields.length === 2 && first.toString("latin1") === curve && isPoint ? undefined : malformed;
  }
  return `keys of type ${JSON.stringify(type.slice(0, 40))} are not supported: use ssh-ed25519, ecdsa-sha2-nistp* or ssh-rsa`;
}

/** The parts of a key, each with its length before it. Undefined when they do not fill the bytes. */
function fieldsOf(bytes: Buffer): readonly Buffer[] | undefined {
  const fields: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    if (bytes.length - at < 4) return undefined;
    const length = bytes.readUInt32BE(at);
    at += 4;
    if (length > bytes.length - at) return undefined;
    fields.push(bytes.subarray(at, at + length));
    at += length;
  }
  return fields;
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid_argument", message);
}
