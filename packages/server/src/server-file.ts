import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { listensOn, startTicksOf } from "./listening-process.ts";
import { writePrivateFile } from "./private-file.ts";

/** The address of a server on this host, for its own user. */
export interface PublishedServer {
  readonly url: string;
  readonly pid: number;
  /** A key that the server accepts. */
  readonly apiKey?: string;
}

/** `startTicks` and `pid` name the one process that wrote the file. A file of an older version has none. */
interface ServerFile extends PublishedServer {
  readonly startTicks?: number;
}

/** Publishes a server, so that the same user's command line finds it without configuration. Disposing withdraws it. */
export async function publishServer(dataDirectory: string, server: PublishedServer): Promise<AsyncDisposable> {
  const file = fileIn(dataDirectory);
  const startTicks = await startTicksOf(server.pid);
  await writePrivateFile(file, `${JSON.stringify({ ...server, startTicks })}\n`);
  return {
    async [Symbol.asyncDispose]() {
      // A later server on the same data directory has replaced the file by its own.
      if ((await readServerFile(file))?.pid === server.pid) await rm(file, { force: true });
    },
  };
}

/**
 * The server that runs on this data directory. A killed server leaves its file behind, and then its process id and its
 * port may belong to anybody. The file therefore counts only while the process that wrote it runs and listens on the
 * published port: its reader sends the key there. Nothing is sent to find out.
 * @throws `permission_denied` when the server belongs to another user
 */
export async function findServer(dataDirectory: string): Promise<PublishedServer | undefined> {
  const file = fileIn(dataDirectory);
  const published = await readServerFile(file);
  if (published?.startTicks === undefined) return undefined;
  const { startTicks, ...server } = published;
  if ((await startTicksOf(server.pid)) !== startTicks) return undefined;
  return (await asOwner(file, () => listensOn(server.pid, portOf(server.url)))) ? server : undefined;
}

function fileIn(dataDirectory: string): string {
  return join(dataDirectory, "server.json");
}

function portOf(url: string): number {
  const { port, protocol } = new URL(url);
  return Number(port || (protocol === "https:" ? 443 : 80));
}

async function readServerFile(file: string): Promise<ServerFile | undefined> {
  const text = await asOwner(file, () => readFile(file, "utf8"));
  return text === undefined ? undefined : parse(text);
}

/** The result; undefined when the file or the process is gone. */
async function asOwner<Result>(file: string, read: () => Promise<Result>): Promise<Result | undefined> {
  try {
    return await read();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    if (code !== "EACCES") throw cause;
    const message = `the server published in ${file} belongs to another user: set OPENSANDBOX_API_URL and OPENSANDBOX_API_KEY`;
    throw new SandboxError("permission_denied", message, { cause });
  }
}

/** A file of another program or of an unknown version publishes nothing. */
function parse(text: string): ServerFile | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { url, pid, apiKey, startTicks } = value as Record<string, unknown>;
  if (typeof url !== "string" || !URL.canParse(url) || typeof pid !== "number" || !(pid > 0)) return undefined;
  return {
    url,
    pid,
    ...(typeof apiKey === "string" ? { apiKey } : {}),
    ...(typeof startTicks === "number" ? { startTicks } : {}),
  };
}
