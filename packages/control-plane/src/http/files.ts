import { Readable } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/files.ts";
import type { FastifyInstance } from "fastify";
import { useSandbox } from "#sandboxes/use-sandbox.ts";
import type { Use } from "#sandboxes/activity.ts";
import type { ApiContext } from "./api-context.ts";
import { answered, serve, type Call } from "./serve.ts";

export function serveFiles(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  const { ending, worker } = sandboxes;

  serve(app, ending, wire.readFile, async (call) => {
    const { use, id } = await begin(api, call);
    try {
      const { path } = wire.fileFrom(call.query);
      const { size, content } = await openFile(api, { id, path }, call.signal);
      call.reply.type("application/octet-stream");
      if (size !== undefined) call.reply.header("content-length", size);
      const stream = Readable.from(content, { objectMode: false });
      stream.once("close", () => use[Symbol.dispose]());
      call.reply.send(stream);
      return answered;
    } catch (error) {
      use[Symbol.dispose]();
      throw error;
    }
  });

  serve(app, ending, wire.writeFile, async (call) => {
    const { use, id } = await begin(api, call);
    using _ = use;
    const { path, mode } = wire.fileFrom(call.query);
    // The socket must outlive a write that fails: the refusal is still to be sent.
    const body = call.request.raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
    await worker.writeFile(id, path, body, mode === undefined ? {} : { mode }, call.signal);
  });

  serve(app, ending, wire.listDirectory, async (call) => {
    const { use, id } = await begin(api, call);
    using _ = use;
    const entries = await worker.listDirectory(id, wire.fileFrom(call.query).path, call.signal);
    return entries.map(wire.fileReplyOf);
  });

  serve(app, ending, wire.makeDirectory, async (call) => {
    const { use, id } = await begin(api, call);
    using _ = use;
    await worker.makeDirectory(id, wire.fileFrom(call.query).path, call.signal);
  });

  serve(app, ending, wire.removeFile, async (call) => {
    const { use, id } = await begin(api, call);
    using _ = use;
    await worker.removeFile(id, wire.fileFrom(call.query).path, call.signal);
  });
}

async function begin(api: ApiContext, call: Call<unknown, unknown>): Promise<{ use: Use; id: SandboxId }> {
  const id = parseSandboxId(call.parameter("id"));
  return { id, use: await useSandbox(api.sandboxes, call.organizationId, id, call.signal) };
}

/** The file once its first bytes are there, so that what fails until then can still be answered with its status. */
async function openFile(
  { sandboxes }: ApiContext,
  { id, path }: { id: SandboxId; path: string },
  signal: AbortSignal,
): Promise<{ size: number | undefined; content: AsyncIterable<Uint8Array> }> {
  const enough = new AbortController();
  const { entry, content } = await sandboxes.worker.readFile(id, path, {}, AbortSignal.any([signal, enough.signal]));
  try {
    if (entry.kind === "directory") {
      throw new SandboxError("invalid_argument", `${path} is a directory: list it with .../files/list`, undefined);
    }
    const chunks = content[Symbol.asyncIterator]();
    const first = await chunks.next();
    // Files of /proc say that they are empty and are not.
    const size = entry.size === 0 && !first.done ? undefined : entry.size;
    return { size, content: wholeFile(first, chunks, { size, path, enough }) };
  } catch (error) {
    enough.abort();
    throw error;
  }
}

/** Exactly `size` bytes, as was promised, or an error that cuts the connection: a file may change while it is read. */
async function* wholeFile(
  first: IteratorResult<Uint8Array>,
  chunks: AsyncIterator<Uint8Array>,
  {
    size = Number.POSITIVE_INFINITY,
    path,
    enough,
  }: { size: number | undefined; path: string; enough: AbortController },
): AsyncGenerator<Uint8Array> {
  try {
    let sent = 0;
    for (let next = first; !next.done && sent < size; next = await chunks.next()) {
      const chunk = next.value.subarray(0, size - sent);
      sent += chunk.length;
      if (chunk.length > 0) yield chunk;
    }
    if (Number.isFinite(size) && sent < size) {
      throw new SandboxError("unavailable", `${path} became shorter while it was read`, undefined);
    }
  } finally {
    enough.abort();
  }
}
