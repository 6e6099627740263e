import { createHash, timingSafeEqual } from "node:crypto";
import { randomHex } from "@opensandbox/wire/ids.ts";

/** A token for a sandbox's previews: the one that is wished for, or a random one of 256 bits. Only its hash is kept. */
export function newPreviewToken(wished = "auto"): { readonly token: string; readonly hash: string } {
  const token = wished === "auto" ? randomHex(32) : wished;
  return { token, hash: hashOf(token) };
}

/** Whether a token is the one that was hashed, in a time that does not tell how much of it is right. */
export function isPreviewToken(token: string, hash: string): boolean {
  return timingSafeEqual(Buffer.from(hashOf(token), "hex"), Buffer.from(hash, "hex"));
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}
