import { once } from "node:events";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/public/guests/files.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { EventStream } from "../event-stream.ts";
import { failureOf } from "../reply-error.ts";
import { fileHeaders, sendFile, statFile } from "./send-file.ts";
import { answered, serve, type Call } from "../serve.ts";
import { useCalledSandbox } from "../requests/use-called-sandbox.ts";

export function serveFiles(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  const { worker } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.readFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    await sendFile(worker, { id, path: wire.fileFrom(call.query).path }, call, call.signal);
    return answered;
  });

  serve(app, ending, wire.headFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const entry = await statFile(worker, { id, path: wire.fileFrom(call.query).path }, call.signal);
    call.reply.headers(fileHeaders(entry)).type("application/octet-stream").header("content-length", entry.size);
  });

  serve(app, ending, wire.writeFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const { path, mode } = wire.fileFrom(call.query);
    await worker.guest(id).files.write(path, bodyOf(call), mode === undefined ? {} : { mode }, call.signal);
  });

  serve(app, ending, wire.setFileAttributes, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const { path } = wire.fileFrom(call.query);
    return wire.fileReplyOf(
      await worker.guest(id).files.setAttributes(path, wire.attributesFrom(call.body), call.signal),
    );
  });

  serve(app, ending, wire.statFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const noFollow = call.query.follow !== "true";
    return wire.fileReplyOf(
      await worker.guest(id).files.stat(wire.fileFrom(call.query).path, { noFollow }, call.signal),
    );
  });

  serve(app, ending, wire.listDirectory, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const entries = await worker.guest(id).files.list(wire.fileFrom(call.query).path, call.signal);
    return entries.map(wire.fileReplyOf);
  });

  serve(app, ending, wire.makeDirectory, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    await worker.guest(id).files.makeDirectory(wire.fileFrom(call.query).path, call.signal);
  });

  serve(app, ending, wire.renameFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    const { from, to } = wire.renameFrom(call.body);
    await worker.guest(id).files.rename(from, to, call.signal);
  });

  serve(app, ending, wire.removeFile, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    using _ = use;
    await worker.guest(id).files.remove(wire.fileFrom(call.query).path, call.signal);
  });

  serve(app, ending, wire.watchFiles, async (call) => {
    const { use, id } = await useCalledSandbox(api, call);
    const { path } = wire.fileFrom(call.query);
    const recursive = call.query.recursive === "true";
    let changes: AsyncIterable<readonly object[]>;
    {
      // Watching does not count as activity: a watched sandbox may hibernate, which ends the watch.
      using _ = use;
      changes = await worker.guest(id).files.watch(path, { recursive }, call.signal);
    }
    await sendChanges(api, call, changes);
    return answered;
  });
}

/** The body of a request. It keeps the socket open after a failed write, so that the refusal can be sent. */
export async function* bodyOf({ request }: Call<unknown, unknown>): AsyncGenerator<Uint8Array> {
  try {
    yield* request.raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  } catch (cause) {
    throw new SandboxError("canceled", "the upload was interrupted", { cause });
  }
}

async function sendChanges(
  { sandboxes, timing }: ApiContext,
  { reply, signal }: Call<unknown, unknown>,
  changes: AsyncIterable<readonly object[]>,
): Promise<void> {
  using stream = new EventStream(reply, timing.keepAliveMs);
  stream.send("ready", {});
  try {
    for await (const batch of changes) {
      for (const change of batch) stream.send("change", change);
      await room(reply, signal);
    }
  } catch (error) {
    stream.send("error", failureOf(error, reply.request.id, sandboxes).body);
  }
  stream.end();
}

/** Settles when more can be sent to the client. */
async function room({ raw }: FastifyReply, signal: AbortSignal): Promise<void> {
  if (raw.writableNeedDrain) await once(raw, "drain", { signal });
}
