import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyRequest } from "fastify";

/** The key that makes a repeated create return the same sandbox. @throws `invalid_argument` */
export function idempotencyKeyOf({ headers }: FastifyRequest): string | undefined {
  const header = headers["idempotency-key"];
  if (header === undefined) return undefined;
  if (typeof header === "string" && header !== "" && header.length <= 255) return header;
  throw new SandboxError("invalid_argument", "Idempotency-Key must have 1 to 255 characters");
}
