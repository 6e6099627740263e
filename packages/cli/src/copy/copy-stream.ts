import type { Readable } from "node:stream";
import { type Output, writeTo } from "#output/write-to.ts";
import { counted, type CopyContext } from "./copied.ts";

interface FileOf {
  readonly id: string;
  readonly path: string;
}

/** Copies standard input to a file of a sandbox. The file has all of its new content or is unchanged. */
export async function copyFromStream(
  stdin: Readable,
  { id, path }: FileOf,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  await context.client.files.write(id, path, counted(stdin, context), {}, signal);
  context.copied.files++;
}

/** Copies a file of a sandbox to standard output, at the speed of its reader. */
export async function copyToStream(
  { id, path }: FileOf,
  stdout: Output,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  const { content } = await context.client.files.read(id, path, {}, signal);
  for await (const chunk of counted(content, context)) await writeTo(stdout, chunk, signal);
  context.copied.files++;
}
