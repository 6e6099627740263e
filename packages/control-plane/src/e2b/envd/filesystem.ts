import { posix } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { EntryInfo } from "@opensandbox/wire/e2b/envd.ts";
import type { FileEntry } from "@opensandbox/wire/worker/files.ts";
import { orMissing } from "../e2b-context.ts";
import { describeEntry, entryAt } from "./entries.ts";
import type { EnvdCall } from "./envd-call.ts";
import { pathFrom } from "./paths.ts";

/** Entries that one listing may hold, subdirectories included. */
const maxListed = 50_000;

export async function stat({ guest, account, signal }: EnvdCall, { path }: { readonly path: string }): Promise<object> {
  return { entry: await entryAt(guest.files, pathFrom(account, path), signal) };
}

/** Makes a directory. @throws `already_exists` for a directory, `invalid_argument` for anything else at the path */
export async function makeDirectory(call: EnvdCall, body: { readonly path: string }): Promise<object> {
  const { guest, account, signal } = call;
  const path = pathFrom(account, body.path);
  const present = await orMissing(guest.files.stat(path, {}, signal));
  if (present?.kind === "directory") {
    throw new SandboxError("already_exists", `directory already exists: ${path}`, { resource: "file", id: path });
  }
  if (present !== undefined) {
    throw new SandboxError("invalid_argument", `path already exists but it is not a directory: ${path}`);
  }
  await guest.files.makeDirectory(path, signal);
  await setOwner(call, path);
  return { entry: await entryAt(guest.files, path, signal) };
}

export async function move(
  { guest, account, signal }: EnvdCall,
  body: { readonly source: string; readonly destination: string },
): Promise<object> {
  const destination = pathFrom(account, body.destination);
  await guest.files.rename(pathFrom(account, body.source), destination, signal);
  return { entry: await entryAt(guest.files, destination, signal) };
}

export async function remove(
  { guest, account, signal }: EnvdCall,
  { path }: { readonly path: string },
): Promise<object> {
  await guest.files.remove(pathFrom(account, path), signal);
  return {};
}

/** Lists a directory and its subdirectories down to `depth`, each directory before its entries. */
export async function listDirectory(
  { guest, account, signal }: EnvdCall,
  { path, depth = 1 }: { readonly path: string; readonly depth?: number | undefined },
): Promise<object> {
  const root = pathFrom(account, path);
  const { kind } = await guest.files.stat(root, {}, signal);
  if (kind !== "directory") throw new SandboxError("invalid_argument", `path is not a directory: ${root}`);
  const entries: EntryInfo[] = [];
  const add = async (directory: string, levels: number): Promise<void> => {
    for (const entry of await guest.files.list(directory, signal)) {
      if (entries.length >= maxListed) {
        throw new SandboxError("not_supported", `${root} has more than ${maxListed} entries: list its subdirectories`);
      }
      entries.push(await describeEntry(guest.files, entry, signal));
      // A directory that is removed during the listing has no entries.
      if (entry.kind === "directory" && levels > 1) await orMissing(add(entry.path, levels - 1));
    }
  };
  await add(root, Math.max(depth, 1));
  return { entries };
}

/** Makes the user of the call own a new file. The guest creates files as the default user. */
export async function setOwner({ guest, account, signal }: EnvdCall, path: string): Promise<FileEntry | undefined> {
  if (account.name === "user" || account.name === "sandbox") return undefined;
  const group = account.name === "root" ? { group: "root" } : {};
  return await guest.files.setAttributes(path, { owner: account.name, ...group }, signal);
}

/** The part of a path below a directory. */
export function below(directory: string, path: string): string {
  return posix.relative(directory, path);
}
