import { z } from "zod";
import type { Route } from "../../route.ts";
import type { FileEntry } from "#worker/files.ts";
import { plainText } from "../fields.ts";

const pathMissing = "path query parameter is required";
const home = "/home/sandbox";

const path = z
  .string({ error: pathMissing })
  .min(1, pathMissing)
  .pipe(plainText("path"))
  .meta({ description: `A path in the sandbox; a relative one starts at ${home}.` });

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
    owner: z.string().meta({ description: "The user's name, or its number when it has no name." }),
    group: z.string(),
    linkTarget: z.string().optional().meta({ description: "The target of a symbolic link." }),
  })
  .meta({ id: "File" });
export type FileReply = z.infer<typeof FileReply>;

export const readFile: Route<unknown, PathQuery> = {
  method: "GET",
  path: "/api/sandboxes/:id/files",
  name: "readFile",
  summary: "Read a file",
  description:
    "A `Range` with one part, such as `bytes=0-99`, `bytes=100-` or `bytes=-100`, is answered with that part, status 206 " +
    "and `Content-Range`. A range beyond the end is answered with 416.",
  access: "key",
  query: PathQuery,
  status: 200,
  bytesOut: true,
  otherReplies: { 206: { description: "The part of the file in the `Range`." } },
};

export const headFile: Route<unknown, PathQuery> = {
  method: "HEAD",
  path: "/api/sandboxes/:id/files",
  name: "headFile",
  summary: "Get the size and modification time of a file as headers",
  access: "key",
  query: PathQuery,
  status: 200,
};

export const writeFile: Route<unknown, WriteQuery> = {
  method: "PUT",
  path: "/api/sandboxes/:id/files",
  name: "writeFile",
  summary: "Write a file; it is replaced when the whole body has arrived, and missing parent directories are created",
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
  summary: "Create a directory and its missing parents",
  access: "key",
  query: PathQuery,
  status: 204,
};

export const removeFile: Route<unknown, PathQuery> = {
  method: "DELETE",
  path: "/api/sandboxes/:id/files",
  name: "removeFile",
  summary: "Remove a file, or a directory with its contents; a missing path is not an error",
  access: "key",
  query: PathQuery,
  status: 204,
};

const StatQuery = z.object({
  path,
  follow: z
    .enum(["true", "false"], "follow must be true or false")
    .optional()
    .meta({ description: "Follow a symbolic link. Default: false." }),
});
type StatQuery = z.infer<typeof StatQuery>;

export const statFile: Route<unknown, StatQuery, FileReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/files/stat",
  name: "statFile",
  summary: "Get the attributes of a file or directory",
  access: "key",
  query: StatQuery,
  status: 200,
  reply: FileReply,
};

const pathIn = (name: string) =>
  z
    .string(`${name} is required`)
    .min(1, `${name} is required`)
    .pipe(plainText(name))
    .meta({ description: `A path in the sandbox; a relative one starts at ${home}.` });

const RenameBody = z.object({ from: pathIn("from"), to: pathIn("to") }).meta({ id: "RenameFile" });
type RenameBody = z.infer<typeof RenameBody>;

export const renameFile: Route<RenameBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/files/rename",
  name: "renameFile",
  summary: "Move a file or directory; missing parents of the new path are created",
  access: "key",
  body: RenameBody,
  status: 204,
};

const AttributesBody = z
  .object({
    mode: z
      .string("mode must be octal, such as 755")
      .regex(/^[0-7]{1,7}$/, "mode must be octal, such as 755")
      .optional()
      .meta({ description: "Permissions in octal." }),
    owner: plainText("owner", "A user's name or number.").optional(),
    group: plainText("group", "A group's name or number.").optional(),
  })
  .meta({ id: "FileAttributes" });
type AttributesBody = z.infer<typeof AttributesBody>;

export const setFileAttributes: Route<AttributesBody, PathQuery, FileReply> = {
  method: "PATCH",
  path: "/api/sandboxes/:id/files",
  name: "setFileAttributes",
  summary: "Change the mode, owner or group of a file; absent attributes stay",
  access: "key",
  query: PathQuery,
  body: AttributesBody,
  status: 200,
  reply: FileReply,
};

const WatchQuery = z.object({
  path,
  recursive: z
    .enum(["true", "false"], "recursive must be true or false")
    .optional()
    .meta({ description: "Watch everything below the directory too. Default: false." }),
});
type WatchQuery = z.infer<typeof WatchQuery>;

export const watchFiles: Route<unknown, WatchQuery> = {
  method: "GET",
  path: "/api/sandboxes/:id/files/watch",
  name: "watchFiles",
  summary: "Watch a file or a directory, as server-sent events",
  description:
    "The first event is `ready`; no later change is missed. Each `change` event carries `{kind, path}`, where kind is " +
    "`created`, `changed`, `removed`, or `lost` when changes came too fast to report. A failure is an `error` event with " +
    "`{error, code}`.",
  access: "key",
  query: WatchQuery,
  status: 200,
};

const maxSignedSeconds = 86_400;
const defaultSeconds = 3600;

const SignBody = z
  .object({
    path: z.string("path is required").min(1, "path is required").pipe(plainText("path")),
    expiresIn: z
      .number("expiresIn must be a number of seconds")
      .optional()
      .meta({ description: `Seconds. Default, also for 0 and less: ${defaultSeconds}. At most ${maxSignedSeconds}.` }),
  })
  .meta({ id: "SignUrl" });
type SignBody = z.infer<typeof SignBody>;

const SignedUrl = z.object({ url: z.url(), expiresAt: z.iso.datetime() }).meta({ id: "SignedUrl" });
type SignedUrl = z.infer<typeof SignedUrl>;

export const signDownload: Route<SignBody, unknown, SignedUrl> = {
  method: "POST",
  path: "/api/sandboxes/:id/files/download-url",
  name: "signDownload",
  summary: "Create a URL that reads a file without a key, for a limited time",
  access: "key",
  body: SignBody,
  status: 200,
  reply: SignedUrl,
};

export const signUpload: Route<SignBody, unknown, SignedUrl> = {
  method: "POST",
  path: "/api/sandboxes/:id/files/upload-url",
  name: "signUpload",
  summary: "Create a URL that writes a file without a key, for a limited time",
  access: "key",
  body: SignBody,
  status: 200,
  reply: SignedUrl,
};

const signedMissing = "path, expires, and signature are required";

const SignedQuery = z.object({
  path: z.string(signedMissing).min(1, signedMissing).pipe(plainText("path")),
  expires: z.string(signedMissing).regex(/^\d{1,15}$/, signedMissing),
  signature: z.string(signedMissing).min(1, signedMissing),
});
export type SignedQuery = z.infer<typeof SignedQuery>;

export const downloadSigned: Route<unknown, SignedQuery> = {
  method: "GET",
  path: "/api/sandboxes/:id/files/download",
  name: "downloadSigned",
  summary: "Read a file by a signed URL",
  access: "open",
  query: SignedQuery,
  status: 200,
  bytesOut: true,
  otherReplies: { 206: { description: "The part of the file in the `Range`." } },
};

export const uploadSigned: Route<unknown, SignedQuery> = {
  method: "PUT",
  path: "/api/sandboxes/:id/files/upload",
  name: "uploadSigned",
  summary: "Write a file by a signed URL",
  access: "open",
  query: SignedQuery,
  bytesIn: true,
  status: 204,
};

export type SignedOperation = "download" | "upload";

/** The text that a URL's signature covers. */
export function signedText(id: string, path: string, operation: SignedOperation, expires: number): string {
  return `opensandbox-signed-url\n${id}\n${path}\n${operation}\n${expires}`;
}

/** The lifetime of a URL in seconds. */
export function signedSecondsFrom({ expiresIn = 0 }: SignBody): number {
  return expiresIn > 0 ? Math.min(Math.ceil(expiresIn), maxSignedSeconds) : defaultSeconds;
}

/** Translates a request into the project's own terms. */
export function fileFrom(query: PathQuery | WriteQuery): { readonly path: string; readonly mode?: number } {
  const path = absolute(query.path);
  return "mode" in query && query.mode !== undefined ? { path, mode: modeFrom(query.mode) } : { path };
}

export function renameFrom({ from, to }: RenameBody): { readonly from: string; readonly to: string } {
  return { from: absolute(from), to: absolute(to) };
}

export function attributesFrom({ mode, owner, group }: AttributesBody): {
  readonly mode?: number;
  readonly owner?: string;
  readonly group?: string;
} {
  return {
    ...(mode === undefined ? {} : { mode: modeFrom(mode) }),
    ...(owner === undefined ? {} : { owner }),
    ...(group === undefined ? {} : { group }),
  };
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${home}/${path}`;
}

function modeFrom(octal: string): number {
  return Number.parseInt(octal, 8) & 0o7777;
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
    owner: entry.owner,
    group: entry.group,
    ...(entry.linkTarget === undefined ? {} : { linkTarget: entry.linkTarget }),
  };
}
