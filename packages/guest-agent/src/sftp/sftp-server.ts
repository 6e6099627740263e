import {
  closeSync,
  constants,
  type Dir,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  opendirSync,
  openSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { posix } from "node:path";
import { attributesOf, lineOf, readAttributes, setAttributes, setLinkAttributes } from "./attributes.ts";
import { MalformedPacket, PacketReader, sized, uint32, uint64 } from "./packet.ts";

/** The largest packet of a client, in bytes: what OpenSSH's server allows. */
const maxPacket = 256 * 1024;
/** The most bytes of one read or write. */
const maxData = maxPacket - 1024;
/** Files and directories that a client may hold open at once. */
const maxHandles = 1000;
/** Entries of a directory in one reply. */
const entriesAtOnce = 100;

/** The types of requests, with their names in the draft. */
const request = {
  init: 1,
  open: 3,
  close: 4,
  read: 5,
  write: 6,
  lstat: 7,
  fstat: 8,
  setstat: 9,
  fsetstat: 10,
  opendir: 11,
  readdir: 12,
  remove: 13,
  mkdir: 14,
  rmdir: 15,
  realpath: 16,
  stat: 17,
  rename: 18,
  readlink: 19,
  symlink: 20,
  extended: 200,
} as const;

const reply = { version: 2, status: 101, handle: 102, data: 103, name: 104, attributes: 105, extended: 201 } as const;

const status = { ok: 0, endOfFile: 1, noSuchFile: 2, denied: 3, failure: 4, badMessage: 5, unsupported: 8 } as const;

/** The extensions of OpenSSH that clients use, with their versions. */
const extensions = {
  "posix-rename@openssh.com": "1",
  "hardlink@openssh.com": "1",
  "fsync@openssh.com": "1",
  "lsetstat@openssh.com": "1",
  "statvfs@openssh.com": "2",
  "fstatvfs@openssh.com": "2",
  "limits@openssh.com": "1",
  "expand-path@openssh.com": "1",
} as const;

/** An error with the status that the client receives. */
class Refusal extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

interface OpenFile {
  readonly file: number;
  readonly appends: boolean;
}

interface OpenDirectory {
  readonly directory: Dir;
  readonly path: Buffer;
}

type Handle = OpenFile | OpenDirectory;

/**
 * Serves one client by version 3 of the SFTP protocol (draft-ietf-secsh-filexfer-02), with the rights of this process. It
 * answers requests one after the other, in their order.
 */
export class SftpServer {
  readonly #handles = new Map<number, Handle>();
  #nextHandle = 1;
  #waiting: Buffer = Buffer.alloc(0);

  /** Takes bytes of the client and returns the answers. @throws {@link MalformedPacket} when the stream cannot go on */
  take(bytes: Buffer): Buffer[] {
    this.#waiting = this.#waiting.length === 0 ? bytes : Buffer.concat([this.#waiting, bytes]);
    const answers: Buffer[] = [];
    while (this.#waiting.length >= 4) {
      const length = this.#waiting.readUInt32BE();
      if (length === 0 || length > maxPacket) throw new MalformedPacket(`a packet of ${length} bytes`);
      if (this.#waiting.length < 4 + length) break;
      const answer = this.#answer(new PacketReader(this.#waiting.subarray(4, 4 + length)));
      answers.push(sized(answer));
      this.#waiting = this.#waiting.subarray(4 + length);
    }
    return answers;
  }

  #answer(packet: PacketReader): Buffer {
    const type = packet.byte();
    if (type === request.init) {
      packet.uint32();
      const offered = Object.entries(extensions).flatMap(([name, version]) => [sized(name), sized(version)]);
      return Buffer.concat([Buffer.from([reply.version]), uint32(3), ...offered]);
    }
    const id = packet.uint32();
    const answer = (kind: number, ...parts: Buffer[]): Buffer =>
      Buffer.concat([Buffer.from([kind]), uint32(id), ...parts]);
    const refuse = (code: number, message: string): Buffer =>
      answer(reply.status, uint32(code), sized(message), sized(""));
    try {
      const done = this.#perform(type, packet, answer);
      return done ?? refuse(status.ok, "");
    } catch (error) {
      if (error instanceof MalformedPacket) throw error;
      if (error instanceof Refusal) return refuse(error.code, error.message);
      return refuse(statusOf(error as NodeJS.ErrnoException), (error as Error).message);
    }
  }

  /** Returns the answer of a request; undefined for one that succeeds without a result. */
  #perform(
    type: number,
    packet: PacketReader,
    answer: (kind: number, ...parts: Buffer[]) => Buffer,
  ): Buffer | undefined {
    switch (type) {
      case request.open:
        return answer(reply.handle, this.#open(packet));
      case request.close:
        return this.#close(packet);
      case request.read:
        return answer(reply.data, sized(this.#read(packet)));
      case request.write:
        return this.#write(packet);
      case request.lstat:
        return answer(reply.attributes, attributesOf(lstatSync(packet.path())));
      case request.fstat:
        return answer(reply.attributes, attributesOf(fstatSync(this.#file(packet).file)));
      case request.setstat:
        setAttributes(packet.path(), readAttributes(packet));
        return undefined;
      case request.fsetstat:
        setAttributes(this.#file(packet).file, readAttributes(packet));
        return undefined;
      case request.opendir: {
        const path = packet.path();
        // Names that are not UTF-8 need a path of bytes.
        return answer(reply.handle, this.#add({ directory: openDirectory(path), path }));
      }
      case request.readdir:
        return answer(reply.name, ...this.#entries(packet));
      case request.remove:
        unlinkSync(packet.path());
        return undefined;
      case request.mkdir: {
        const path = packet.path();
        const { mode } = readAttributes(packet);
        mkdirSync(path, mode === undefined ? {} : { mode: mode & 0o7777 });
        return undefined;
      }
      case request.rmdir:
        rmdirSync(packet.path());
        return undefined;
      case request.realpath:
        return answer(reply.name, ...oneName(resolved(packet.path())));
      case request.stat:
        return answer(reply.attributes, attributesOf(statSync(packet.path())));
      case request.rename:
        return renameUnlessThere(packet.path(), packet.path());
      case request.readlink:
        return answer(reply.name, ...oneName(readlinkSync(packet.path(), "buffer")));
      case request.symlink:
        // OpenSSH's clients send the target first, against the draft.
        symlinkSync(packet.path(), packet.path());
        return undefined;
      case request.extended:
        return this.#extended(packet, answer);
      default:
        throw new Refusal(status.unsupported, `the request ${type} is not supported`);
    }
  }

  #extended(packet: PacketReader, answer: (kind: number, ...parts: Buffer[]) => Buffer): Buffer | undefined {
    const name = packet.text();
    switch (name as keyof typeof extensions) {
      case "posix-rename@openssh.com":
        renameSync(packet.path(), packet.path());
        return undefined;
      case "hardlink@openssh.com":
        linkSync(packet.path(), packet.path());
        return undefined;
      case "fsync@openssh.com":
        fsyncSync(this.#file(packet).file);
        return undefined;
      case "lsetstat@openssh.com":
        setLinkAttributes(packet.path(), readAttributes(packet));
        return undefined;
      case "statvfs@openssh.com":
        return answer(reply.extended, fileSystemOf(packet.path()));
      case "fstatvfs@openssh.com":
        return answer(reply.extended, fileSystemOf(Buffer.from(`/proc/self/fd/${this.#file(packet).file}`)));
      case "limits@openssh.com":
        return answer(reply.extended, ...[maxPacket, maxData, maxData, maxHandles].map(uint64));
      case "expand-path@openssh.com":
        return answer(reply.name, ...oneName(resolved(withHome(packet.path()))));
      default:
        throw new Refusal(status.unsupported, `the extension ${name} is not supported`);
    }
  }

  #open(packet: PacketReader): Buffer {
    const path = packet.path();
    const asked = packet.uint32();
    const { mode = 0o666 } = readAttributes(packet);
    const [reads, writes, appends] = [asked & 1, asked & 2, asked & 4].map((bit) => bit !== 0) as [
      boolean,
      boolean,
      boolean,
    ];
    if (!reads && !writes) throw new Refusal(status.badMessage, "a file is opened to read, to write, or both");
    const flags =
      (reads && writes ? constants.O_RDWR : writes ? constants.O_WRONLY : constants.O_RDONLY) |
      (appends ? constants.O_APPEND : 0) |
      (asked & 8 ? constants.O_CREAT : 0) |
      (asked & 16 ? constants.O_TRUNC : 0) |
      (asked & 32 ? constants.O_EXCL : 0);
    if (this.#handles.size >= maxHandles) throw tooManyHandles();
    return this.#add({ file: openSync(path, flags, mode & 0o7777), appends });
  }

  #add(handle: Handle): Buffer {
    if (this.#handles.size >= maxHandles) {
      closeHandle(handle);
      throw tooManyHandles();
    }
    const number = this.#nextHandle++;
    this.#handles.set(number, handle);
    return sized(uint32(number));
  }

  #close(packet: PacketReader): undefined {
    const bytes = packet.bytes();
    const handle = this.#handle(bytes);
    this.#handles.delete(bytes.readUInt32BE());
    closeHandle(handle);
  }

  #handle(bytes: Buffer): Handle {
    const handle = bytes.length === 4 ? this.#handles.get(bytes.readUInt32BE()) : undefined;
    if (handle === undefined) throw new Refusal(status.failure, "the handle is not open");
    return handle;
  }

  #file(packet: PacketReader): OpenFile {
    const handle = this.#handle(packet.bytes());
    if (!("file" in handle)) throw new Refusal(status.failure, "the handle is a directory's");
    return handle;
  }

  #read(packet: PacketReader): Buffer {
    const { file } = this.#file(packet);
    const position = packet.position();
    const bytes = Buffer.allocUnsafe(Math.min(packet.uint32(), maxData));
    const length = readSync(file, bytes, 0, bytes.length, position);
    if (length === 0 && bytes.length > 0) throw new Refusal(status.endOfFile, "end of file");
    return bytes.subarray(0, length);
  }

  #write(packet: PacketReader): undefined {
    const { file, appends } = this.#file(packet);
    const position = packet.position();
    const bytes = packet.bytes();
    for (let done = 0; done < bytes.length;) {
      done += writeSync(file, bytes, done, bytes.length - done, appends ? null : position + done);
    }
  }

  #entries(packet: PacketReader): Buffer[] {
    const handle = this.#handle(packet.bytes());
    if (!("directory" in handle)) throw new Refusal(status.failure, "the handle is a file's");
    const entries: Buffer[] = [];
    for (let entry = handle.directory.readSync(); entry !== null; entry = handle.directory.readSync()) {
      const name = entry.name as unknown as Buffer;
      try {
        const stats = lstatSync(Buffer.concat([handle.path, Buffer.from("/"), name]));
        entries.push(Buffer.concat([sized(name), sized(lineOf(name, stats)), attributesOf(stats)]));
      } catch (error) {
        // Another process has removed it meanwhile.
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      }
      if (entries.length === entriesAtOnce) break;
    }
    if (entries.length === 0) throw new Refusal(status.endOfFile, "no more entries");
    return [uint32(entries.length), ...entries];
  }
}

function tooManyHandles(): Refusal {
  return new Refusal(status.failure, `more than ${maxHandles} files are open`);
}

function closeHandle(handle: Handle): void {
  if ("file" in handle) closeSync(handle.file);
  else handle.directory.closeSync();
}

function openDirectory(path: Buffer): Dir {
  // The types lack the encoding of bytes.
  return opendirSync(path, { encoding: "buffer" as BufferEncoding });
}

/** A name without attributes, in the form of a directory's entry. */
function oneName(name: Buffer): Buffer[] {
  return [uint32(1), sized(name), sized(name), uint32(0)];
}

/** The absolute path without links and dots. The last part need not exist; below a missing directory links stay. */
function resolved(path: Buffer): Buffer {
  try {
    return realpathSync(path, "buffer");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    // Latin-1 keeps every byte.
    const whole = posix.resolve(Buffer.from(process.cwd()).toString("latin1"), path.toString("latin1"));
    const { dir, base } = posix.parse(whole);
    try {
      const directory = realpathSync(Buffer.from(dir, "latin1"), "buffer").toString("latin1");
      return Buffer.from(posix.join(directory, base), "latin1");
    } catch {
      return Buffer.from(whole, "latin1");
    }
  }
}

function withHome(path: Buffer): Buffer {
  const [first, second] = path;
  if (first !== 0x7e) return path;
  if (second !== undefined && second !== 0x2f) {
    throw new Refusal(status.unsupported, "home directories of other users are not looked up");
  }
  return Buffer.concat([Buffer.from(homedir()), path.subarray(1)]);
}

/** Version 3 renames to a path that does not exist. */
function renameUnlessThere(from: Buffer, to: Buffer): undefined {
  let exists = true;
  try {
    lstatSync(to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    exists = false;
  }
  if (exists) throw new Refusal(status.failure, "the new path exists");
  renameSync(from, to);
}

function fileSystemOf(path: Buffer): Buffer {
  const { bsize, blocks, bfree, bavail, files, ffree } = statfsSync(path);
  return Buffer.concat([bsize, bsize, blocks, bfree, bavail, files, ffree, ffree, 0, 0, 255].map(uint64));
}

function statusOf({ code }: NodeJS.ErrnoException): number {
  switch (code) {
    case "ENOENT":
    case "ENOTDIR":
    case "ELOOP":
      return status.noSuchFile;
    case "EACCES":
    case "EPERM":
      return status.denied;
    case "EINVAL":
    case "ENAMETOOLONG":
      return status.badMessage;
    case undefined:
    default:
      return status.failure;
  }
}
