import { createHmac, randomBytes } from "node:crypto";
import type { WebhookSecrets } from "./webhook.ts";

/** A new signing secret: `whsec_` and 32 random bytes in base64, https://www.standardwebhooks.com. */
export function newSecret(): string {
  return prefix + randomBytes(32).toString("base64");
}

const prefix = "whsec_";

/**
 * The headers that prove a delivery's origin: Standard Webhooks, under the names of that standard and of Svix, which the
 * published clients read. During a rotation both secrets sign.
 * @param now milliseconds since 1970, which receivers compare with their clock
 */
export function signedHeaders(
  { id, body }: { readonly id: string; readonly body: string },
  { current, previous }: WebhookSecrets,
  now: number,
): Readonly<Record<string, string>> {
  const timestamp = String(Math.floor(now / 1000));
  const signatures = [current, ...(previous === undefined ? [] : [previous])].map(
    (secret) => `v1,${createHmac("sha256", keyOf(secret)).update(`${id}.${timestamp}.${body}`).digest("base64")}`,
  );
  const values = { id, timestamp, signature: signatures.join(" ") };
  const named = (name: string) => Object.entries(values).map(([key, value]) => [`${name}-${key}`, value] as const);
  return Object.fromEntries([...named("svix"), ...named("webhook")]);
}

/**
 * The bytes of the base64 after the prefix. A secret that is not base64 is the key itself, as in the published clients.
 */
function keyOf(secret: string): Buffer {
  const encoded = secret.startsWith(prefix) ? secret.slice(prefix.length) : secret;
  const decoded = Buffer.from(encoded, "base64");
  const isBase64 = decoded.length > 0 && withoutPadding(decoded.toString("base64")) === withoutPadding(encoded);
  return isBase64 ? decoded : Buffer.from(secret, "utf8");
}

function withoutPadding(text: string): string {
  return text.replace(/=+$/, "");
}
