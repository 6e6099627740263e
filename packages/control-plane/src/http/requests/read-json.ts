import type { IncomingMessage } from "node:http";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Reads a JSON body of at most `limit` bytes, whatever its Content-Type. No body counts as an empty object. */
export async function readJson(request: IncomingMessage, limit: number): Promise<unknown> {
  const text = await readText(request, limit);
  if (text.trim() === "") return {};
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SandboxError("invalid_argument", `the request body is not JSON: ${reason}`, { cause: error });
  }
}

/** Whether the declared length of the body exceeds the limit. */
export function isTooLarge(request: IncomingMessage, limit: number): boolean {
  return Number(request.headers["content-length"] ?? 0) > limit;
}

async function readText(request: IncomingMessage, limit: number): Promise<string> {
  if (isTooLarge(request, limit)) throw tooLarge(limit);
  const chunks: Buffer[] = [];
  let bytes = 0;
  // The socket must outlive this loop, because the refusal is sent afterwards.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > limit) throw tooLarge(limit);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function tooLarge(limit: number): SandboxError {
  const message = `the request body is larger than ${limit / 2 ** 20} MiB: upload files to .../files instead`;
  return new SandboxError("invalid_argument", message);
}
