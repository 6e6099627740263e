import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { inPieces } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import * as wire from "@opensandbox/wire/worker/rpc/guest-messages.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { FileChange, GuestFiles } from "@opensandbox/wire/worker/files.ts";
import { CallScope } from "./call-scope.ts";
import type { WorkerClient, WorkerLink } from "./worker-link.ts";

/** The files of a guest on another host. */
export function remoteFiles(link: WorkerLink, sandboxId: SandboxId): GuestFiles {
  return {
    async read(path, { offset = 0, length = 0 }, signal) {
      const request = { sandboxId, path, offset, length };
      const call: OpenStream<pb.ReadFileReply> = (client, options) => client.readFile(request, options);
      const { first, rest } = await openStream(link, call, signal);
      const { event } = first;
      if (event.case !== "entry") throw new SandboxError("unavailable", `${link.name} did not open ${path}`);
      const content = valuesOf(rest, (reply) => (reply.event.case === "content" ? reply.event.value : undefined));
      return { entry: wire.entryFromWire(event.value), content };
    },
    async write(path, content, { mode }, signal) {
      const request = { sandboxId, path, ...(mode === undefined ? {} : { mode }) };
      // When the caller fails to provide the content, its error is the result, and not the broken call that follows.
      let broken: { readonly error: unknown } | undefined;
      const noticed = async function* (): AsyncGenerator<Uint8Array> {
        try {
          yield* content;
        } catch (error) {
          broken = { error };
          throw error;
        }
      };
      try {
        const inputs = uploadOf(request, noticed());
        return await link.until(signal, async (client, options) => (await client.writeFile(inputs, options)).bytes);
      } catch (error) {
        throw broken === undefined ? error : broken.error;
      }
    },
    async stat(path, { noFollow = false }, signal) {
      const request = { sandboxId, path, noFollow };
      return wire.entryFromWire(await link.until(signal, (client, options) => client.statFile(request, options)));
    },
    async list(path, signal) {
      return await link.until(signal, async (client, options) => {
        const replies = await Array.fromAsync(client.listFiles({ sandboxId, path }, options));
        return replies.flatMap(({ entries }) => entries.map(wire.entryFromWire));
      });
    },
    async makeDirectory(path, signal) {
      await link.until(signal, (client, options) => client.makeDirectory({ sandboxId, path }, options));
    },
    async remove(path, signal) {
      await link.until(signal, (client, options) => client.removeFile({ sandboxId, path }, options));
    },
    async rename(from, to, signal) {
      await link.until(signal, (client, options) => client.renameFile({ sandboxId, from, to }, options));
    },
    async setAttributes(path, attributes, signal) {
      const request = { sandboxId, path, ...attributes };
      return wire.entryFromWire(await link.until(signal, (client, options) => client.setAttributes(request, options)));
    },
    async watch(path, { recursive }, signal) {
      const request = { sandboxId, path, recursive };
      const call: OpenStream<pb.WatchFilesReply> = (client, options) => client.watchFiles(request, options);
      const { rest } = await openStream(link, call, signal);
      return valuesOf(rest, ({ changes }): readonly FileChange[] => changes.map(wire.changeFromWire));
    },
    async sync(signal) {
      await link.until(signal, (client, options) => client.syncFiles({ sandboxId }, options));
    },
  };
}

async function* uploadOf(
  request: MessageInitShape<typeof pb.WriteFileRequestSchema>,
  content: AsyncIterable<Uint8Array>,
): AsyncGenerator<MessageInitShape<typeof pb.WriteFileInputSchema>> {
  yield { event: { case: "request", value: request } };
  for await (const piece of inPieces(content)) yield { event: { case: "content", value: piece } };
  yield { event: { case: "end", value: {} } };
}

type OpenStream<Reply> = (client: WorkerClient, options: CallOptions) => AsyncIterable<Reply>;

interface Opened<Reply> {
  readonly first: Reply;
  /** A reader that leaves ends the call. */
  readonly rest: AsyncIterable<Reply>;
}

/** Opens a stream whose first message says that the worker has begun. */
async function openStream<Reply>(
  link: WorkerLink,
  call: OpenStream<Reply>,
  signal: AbortSignal,
): Promise<Opened<Reply>> {
  const scope = new CallScope(signal);
  try {
    const replies = call(link.client, { signal: scope.signal })[Symbol.asyncIterator]();
    const first = await replies.next();
    if (first.done === true) throw new SandboxError("unavailable", `${link.name} ended a stream before its beginning`);
    return { first: first.value, rest: restOf(replies, { link, signal, scope }) };
  } catch (error) {
    scope[Symbol.dispose]();
    throw link.failure(error, signal);
  }
}

async function* restOf<Reply>(
  replies: AsyncIterator<Reply>,
  { link, signal, scope }: { readonly link: WorkerLink; readonly signal: AbortSignal; readonly scope: CallScope },
): AsyncGenerator<Reply> {
  try {
    for (let next = await replies.next(); next.done !== true; next = await replies.next()) yield next.value;
  } catch (error) {
    throw link.failure(error, signal);
  } finally {
    scope[Symbol.dispose]();
  }
}

async function* valuesOf<Reply, T>(
  replies: AsyncIterable<Reply>,
  valueOf: (reply: Reply) => T | undefined,
): AsyncGenerator<T> {
  for await (const reply of replies) {
    const value = valueOf(reply);
    if (value !== undefined) yield value;
  }
}
