import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Reads 256-bit keys as 64 hexadecimal digits or in base64. @throws an error without the text of a key */
export function parseMasterKeys(texts: readonly string[]): readonly string[] {
  return texts.map((text) => {
    const key = text.trim();
    if (/^[0-9a-f]{64}$/i.test(key)) return key.toLowerCase();
    const bytes = Buffer.from(key, "base64");
    if (/^[A-Za-z0-9+/]{43}=$/.test(key) && bytes.length === 32) return bytes.toString("hex");
    throw new SandboxError("invalid_argument", "a master key has 32 bytes: 64 hexadecimal digits, or base64");
  });
}
