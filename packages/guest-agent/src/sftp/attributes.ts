import {
  chmodSync,
  chownSync,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  lutimesSync,
  readFileSync,
  type Stats,
  truncateSync,
  utimesSync,
} from "node:fs";
import { type PacketReader, uint32, uint64 } from "./packet.ts";

/** Attributes of a file, as a client sends them. Absent: unchanged. */
export interface Attributes {
  readonly size?: number;
  readonly owner?: { readonly uid: number; readonly gid: number };
  readonly mode?: number;
  /** In seconds. */
  readonly times?: { readonly accessed: number; readonly modified: number };
}

const flags = { size: 1, owner: 2, mode: 4, times: 8, extended: 0x80000000 } as const;

export function readAttributes(packet: PacketReader): Attributes {
  const present = packet.uint32();
  const attributes = {
    ...(present & flags.size ? { size: packet.position() } : {}),
    ...(present & flags.owner ? { owner: { uid: packet.uint32(), gid: packet.uint32() } } : {}),
    ...(present & flags.mode ? { mode: packet.uint32() } : {}),
    ...(present & flags.times ? { times: { accessed: packet.uint32(), modified: packet.uint32() } } : {}),
  };
  if (present & flags.extended) {
    for (let left = packet.uint32(); left > 0; left -= 1) {
      packet.bytes();
      packet.bytes();
    }
  }
  return attributes;
}

export function attributesOf({ size, uid, gid, mode, atimeMs, mtimeMs }: Stats): Buffer {
  const seconds = (milliseconds: number): Buffer => uint32(Math.floor(milliseconds / 1000));
  return Buffer.concat([
    ...[uint32(flags.size | flags.owner | flags.mode | flags.times), uint64(size)],
    ...[uint32(uid), uint32(gid), uint32(mode), seconds(atimeMs), seconds(mtimeMs)],
  ]);
}

/** Changes the attributes of a path, following a symbolic link, or of an open file. */
export function setAttributes(target: Buffer | number, { size, owner, mode, times }: Attributes): void {
  const change =
    typeof target === "number"
      ? { size: ftruncateSync, mode: fchmodSync, times: futimesSync, owner: fchownSync }
      : { size: truncateSync, mode: chmodSync, times: utimesSync, owner: chownSync };
  // The union of both kinds of calls takes neither kind of target.
  const calls = change as { [Name in keyof typeof change]: (target: Buffer | number, ...values: number[]) => void };
  if (size !== undefined) calls.size(target, size);
  if (mode !== undefined) calls.mode(target, mode & 0o7777);
  if (times !== undefined) calls.times(target, times.accessed, times.modified);
  if (owner !== undefined) calls.owner(target, owner.uid, owner.gid);
}

/** Changes the attributes that a symbolic link has itself. */
export function setLinkAttributes(path: Buffer, { owner, times }: Attributes): void {
  if (times !== undefined) lutimesSync(path, times.accessed, times.modified);
  if (owner !== undefined) lchownSync(path, owner.uid, owner.gid);
}

const kinds: Readonly<Record<number, string>> = {
  0o140000: "s",
  0o120000: "l",
  0o100000: "-",
  0o060000: "b",
  0o040000: "d",
  0o020000: "c",
  0o010000: "p",
};

/** A line as `ls -l` prints it, which clients show to people. */
export function lineOf(name: Buffer, { mode, nlink, uid, gid, size, mtime }: Stats): Buffer {
  const bits = Array.from("rwxrwxrwx", (letter, index) => (mode & (0o400 >> index) ? letter : "-")).join("");
  const date = `${mtime.toISOString().slice(0, 10)} ${mtime.toISOString().slice(11, 16)}`;
  const [user, group] = [nameOf("passwd", uid), nameOf("group", gid)];
  const columns = [
    ...[`${kinds[mode & 0o170000] ?? "?"}${bits}`, String(nlink).padStart(4), user.padEnd(8), group.padEnd(8)],
    ...[String(size).padStart(8), date],
  ];
  return Buffer.concat([Buffer.from(`${columns.join(" ")} `), name]);
}

const names = new Map<string, ReadonlyMap<number, string>>();

/** The name of a user or a group, or its number. */
function nameOf(file: "passwd" | "group", id: number): string {
  const known = names.get(file) ?? readNames(`/etc/${file}`);
  names.set(file, known);
  return known.get(id) ?? String(id);
}

function readNames(file: string): ReadonlyMap<number, string> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    // An image without the file has numbers alone.
    return new Map();
  }
  const lines = text.split("\n").map((line) => line.split(":"));
  return new Map(lines.map(([name = "", , id]) => [Number(id), name]));
}
