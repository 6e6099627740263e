import {
  existsSync,
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageConfig } from "../image-manifest.ts";

/** Commands of users that no image's configuration names run as this user, who owns the workspace. */
const sandboxUser = { name: "sandbox", id: 1000, home: "/home/sandbox" };
/** The guest agent reads this file: guest-agent/src/exec/image-defaults.ts. */
const imageNote = "/etc/opensandbox-image.json";
/** A file of accounts is a few kilobytes. */
const maxFileBytes = 2 ** 20;

interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/**
 * Adds to an unpacked image what a machine needs, whatever distribution it is: the user `sandbox`, a shell, directories,
 * and a note of the image's configuration, which the guest agent reads. The process must have changed its root.
 * @throws `invalid_argument` when a file of the image stands in the way
 */
export function prepareGuest(config: ImageConfig): void {
  for (const [path, mode] of [
    ["/etc", 0o755],
    ["/bin", 0o755],
    ["/root", 0o700],
    ["/tmp", 0o1777],
    ["/home", 0o755],
    ["/workspace", 0o755],
    [sandboxUser.home, 0o755],
  ] as const) {
    provideDirectory(path, mode);
  }
  chownSync(sandboxUser.home, sandboxUser.id, sandboxUser.id);
  chownSync("/workspace", sandboxUser.id, sandboxUser.id);
  // Distroless and empty images have no shell. The agent disk's busybox also knows the usual commands.
  if (!existsSync("/bin/sh")) symlinkSync("/run/opensandbox/bin/busybox", "/bin/sh");

  const shell = existsSync("/bin/bash") ? "/bin/bash" : "/bin/sh";
  const accounts = readText("/etc/passwd") ?? "root:x:0:0:root:/root:/bin/sh\n";
  const { name, id, home } = sandboxUser;
  const lines = [accounts.replace(/\n*$/, "")];
  if (!accountsOf(accounts).some((account) => account.name === name)) {
    lines.push(`${name}:x:${id}:${id}::${home}:${shell}`);
    addLine("/etc/group", `${name}:x:${id}:`, "root:x:0:\n");
    // PAM, which sudo asks, refuses an account that is not in this file.
    if (existsSync("/etc/shadow")) addLine("/etc/shadow", `${name}:!:20000:0:99999:7:::`, "");
  }
  const user = userOf(config.user, accountsOf(lines.join("\n")), lines);
  writeText("/etc/passwd", `${lines.join("\n")}\n`);
  if (existsSync("/etc/sudoers")) {
    provideDirectory("/etc/sudoers.d", 0o750);
    // By number too: an image may have its own name for the user.
    writeText(
      "/etc/sudoers.d/opensandbox",
      [name, `#${id}`].map((who) => `${who} ALL=(ALL:ALL) NOPASSWD:ALL\n`).join(""),
    );
    chmodSync("/etc/sudoers.d/opensandbox", 0o440);
  }
  if (readText("/etc/hosts")?.includes("localhost") !== true) {
    writeText("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 sandbox\n::1 localhost ip6-localhost ip6-loopback\n");
  }
  // The guest agent writes an id of its own for each sandbox.
  if (existsSync("/etc/machine-id")) writeText("/etc/machine-id", "");
  const { env, entrypoint, cmd, workdir } = config;
  const note = { env, user, workdir, command: [...entrypoint, ...cmd] };
  writeText(imageNote, `${JSON.stringify(note, undefined, 2)}\n`);
  // Docker makes a missing working directory as well.
  if (workdir.startsWith("/") && !existsSync(workdir)) mkdirSync(workdir, { recursive: true });
}

/** The account that the configuration names, added to `lines` when only its numbers are given. */
function userOf(wanted: string, accounts: readonly Account[], lines: string[]): string {
  if (wanted === "") return "root";
  const [who = "", group] = wanted.split(":");
  const gid = group === undefined ? undefined : groupOf(group);
  const uid = /^\d{1,5}$/.test(who) ? Number(who) : undefined;
  const found = accounts.find((account) => (uid === undefined ? account.name === who : account.uid === uid));
  if (found === undefined && uid === undefined)
    throw refused(`its configuration names the unknown user ${JSON.stringify(who)}`);
  if (found !== undefined && (gid === undefined || gid === found.gid)) return found.name;
  const name = "image-user";
  lines.push(`${name}:x:${uid ?? found?.uid}:${gid ?? 0}::/:/bin/sh`);
  return name;
}

function groupOf(name: string): number {
  if (/^\d{1,5}$/.test(name)) return Number(name);
  const found = accountsOf(readText("/etc/group") ?? "").find((group) => group.name === name);
  if (found === undefined) throw refused(`its configuration names the unknown group ${JSON.stringify(name)}`);
  return found.uid;
}

/** Lines of passwd(5), and the first fields of group(5). */
function accountsOf(text: string): readonly Account[] {
  return text.split("\n").flatMap((line) => {
    const [name = "", , uid = "", gid = ""] = line.split(":");
    return /^\d+$/.test(uid) ? [{ name, uid: Number(uid), gid: Number(gid) }] : [];
  });
}

function addLine(path: string, line: string, otherwise: string): void {
  const text = readText(path) ?? otherwise;
  writeText(path, `${text.replace(/\n*$/, text === "" ? "" : "\n")}${line}\n`);
}

/** Reads a file that is neither a pipe, which would block, nor too large. Undefined: there is none. */
function readText(path: string): string | undefined {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return undefined;
  if (!found.isFile() || found.size > maxFileBytes)
    throw refused(`${path} is no file of at most ${maxFileBytes} bytes`);
  return readFileSync(path, "latin1");
}

function writeText(path: string, text: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() === false) throw refused(`${path} is no file`);
  try {
    writeFileSync(path, Buffer.from(text, "latin1"), { mode: 0o644 });
  } catch (cause) {
    throw refused(`${path} cannot be written: ${(cause as Error).message}`, cause);
  }
}

function provideDirectory(path: string, mode: number): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isDirectory() === true) return;
  try {
    mkdirSync(path, { recursive: true });
    chmodSync(path, mode);
  } catch (cause) {
    throw refused(`${path} is no directory`, cause);
  }
}

function refused(what: string, cause?: unknown): SandboxError {
  return new SandboxError("invalid_argument", `the image cannot be used: ${what}`, { cause });
}
