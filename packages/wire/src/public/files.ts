import { z } from "zod";
import type { Route } from "../route.ts";
import type { FileEntry } from "../worker/worker.ts";
import { plainText } from "./fields.ts";

const pathMissing = "path query parameter is required";
const home = "/home/sandbox";

const path = z
  .string({ error: pathMissing })
  .min(1, pathMissing)
  .pipe(plainText("path"))
  .meta({ description: `In the sandbox; a relative one begins at ${home}.` });

const PathQuery = z.object({ path });
type PathQuery = z.infer<typeof PathQuery>;

const WriteQuery = z.object({
  path,
  mode: z
    .string()
    .regex(/^[0-7]{1,7}$/, "mode must be octal, such as 755")
    .optional()
    .meta({ description: "Permissions in octal. Default: 644." }),
});
type WriteQuery = z.infer<typeof WriteQuery>;

const FileReply = z
  .object({
    name: z.string(),
    isDir: z.boolean(),
    size: z.int(),
    path: z.string(),
    kind: z.enum(["file", "directory", "symlink", "other"]),
    mode: z.int().meta({ description: "Permission bits." }),
    modifiedAt: z.iso.datetime(),
  })
  .meta({ id: "File" });
type FileReply = z.infer<typeof FileReply>;

export const readFile: Route<unknown, PathQuery> = {
  method: "GET",
  path: "/api/sandboxes/:id/files",
  name: "readFile",
  summary: "Read a file",
  access: "key",
  query: PathQuery,
  status: 200,
  bytesOut: true,
};

export const writeFile: Route<unknown, WriteQuery> = {
  method: "PUT",
  path: "/api/sandboxes/:id/files",
  name: "writeFile",
  summary: "Write a file, replacing it when all has arrived; directories above it are made",
  access: "key",
  query: WriteQuery,
  bytesIn: true,
  status: 204,
};

export const listDirectory: Route<unknown, PathQuery, FileReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/files/list",
  name: "listDirectory",
  summary: "List a directory",
  access: "key",
  query: PathQuery,
  status: 200,
  reply: z.array(FileReply),
};

export const makeDirectory: Route<unknown, PathQuery> = {
  method: "POST",
  path: "/api/sandboxes/:id/files/mkdir",
  name: "makeDirectory",
  summary: "Make a directory and those above it",
  access: "key",
  query: PathQuery,
  status: 204,
};

export const removeFile: Route<unknown, PathQuery> = {
  method: "DELETE",
  path: "/api/sandboxes/:id/files",
  name: "removeFile",
  summary: "Remove a file or a directory with all in it; nothing there is fine",
  access: "key",
  query: PathQuery,
  status: 204,
};

/** The file a client means, in the project's own words. */
export function fileFrom(query: PathQuery | WriteQuery): { readonly path: string; readonly mode?: number } {
  const path = query.path.startsWith("/") ? query.path : `${home}/${query.path}`;
  return "mode" in query && query.mode !== undefined
    ? { path, mode: Number.parseInt(query.mode, 8) & 0o7777 }
    : { path };
}

export function fileReplyOf(entry: FileEntry): FileReply {
  return {
    name: entry.name,
    isDir: entry.kind === "directory",
    size: entry.size,
    path: entry.path,
    kind: entry.kind,
    mode: entry.mode & 0o7777,
    modifiedAt: new Date(entry.modifiedMs).toISOString(),
  };
}
