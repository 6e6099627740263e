import { createHash, timingSafeEqual } from "node:crypto";
import { randomHex } from "@opensandbox/wire/ids.ts";

/** A token for a sandbox's previews: the caller's own, or 256 random bits for `auto`. Only the hash is stored. */
export function newPreviewToken(chosen = "auto"): { readonly token: string; readonly hash: string } {
  const token = chosen === "auto" ? randomHex(32) : chosen;
  return { token, hash: hashOf(token) };
}

/** Whether a token has that hash, compared in constant time. */
export function isPreviewToken(token: string, hash: string): boolean {
  return timingSafeEqual(Buffer.from(hashOf(token), "hex"), Buffer.from(hash, "hex"));
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}
