import { readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { writePrivateFile } from "./private-file.ts";

/** How a server of this host is found by the user who started it. */
export interface PublishedServer {
  readonly url: string;
  readonly pid: number;
  /** A key that it accepts. */
  readonly apiKey?: string;
}

/** Lets the command line of the same user find the server without being told where it is. Disposing takes it back. */
export async function publishServer(dataDirectory: string, server: PublishedServer): Promise<AsyncDisposable> {
  const file = fileIn(dataDirectory);
  await writePrivateFile(file, `${JSON.stringify(server)}\n`);
  return {
    async [Symbol.asyncDispose]() {
      // A server that was started later on the same directory has put its own there.
      if ((await readServer(file))?.pid === server.pid) await rm(file, { force: true });
    },
  };
}

/**
 * The server that runs on this data directory, if there is one.
 * @throws `permission_denied` when it is another user's
 */
export async function findServer(dataDirectory: string): Promise<PublishedServer | undefined> {
  const server = await readServer(fileIn(dataDirectory));
  if (server === undefined || !isAlive(server.pid)) return undefined;
  // A killed server leaves its file, and its process id may be another's by now.
  return (await answers(server.url)) ? server : undefined;
}

function fileIn(dataDirectory: string): string {
  return join(dataDirectory, "server.json");
}

async function readServer(file: string): Promise<PublishedServer | undefined> {
  try {
    return parse(await readFile(file, "utf8"));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    if (code !== "EACCES") throw cause;
    const message = `the server on ${file} is another user's: set OPENSANDBOX_API_URL and OPENSANDBOX_API_KEY`;
    throw new SandboxError("permission_denied", message, { cause });
  }
}

/** A file that is not ours, or from another version, publishes nothing. */
function parse(text: string): PublishedServer | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { url, pid, apiKey } = value as Record<string, unknown>;
  if (typeof url !== "string" || !URL.canParse(url) || typeof pid !== "number" || !(pid > 0)) return undefined;
  return { url, pid, ...(typeof apiKey === "string" ? { apiKey } : {}) };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

async function answers(url: string): Promise<boolean> {
  const { hostname, port, protocol } = new URL(url);
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({
    host: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port || (protocol === "https:" ? 443 : 80)),
  });
  socket.once("connect", () => resolve(true));
  socket.once("error", () => resolve(false));
  // It is on this host; one that hangs for longer is of no use.
  socket.setTimeout(2000, () => resolve(false));
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}
