import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { startPrivateCommand } from "#execs/private-command.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

/** A user of the guest, with the directory that relative paths start from. */
export interface Account {
  readonly name: string;
  readonly home: string;
}

/** The user whom clients expect. It is a second name of `sandbox`, with a home of its own. */
const defaultAccount: Account = { name: "user", home: "/home/user" };

/** The user of a fake machine, which has no users of its own. */
const fakeAccount: Account = { name: "sandbox", home: "/home/sandbox" };

/**
 * Adds `user` beside `sandbox`: same numbers, so that each owns the other's files. The new lines come first, so that
 * names of owners and `whoami` are those that clients of this interface expect.
 */
export const addUserCommand = `
set -eu
if grep -q '^user:' /etc/passwd; then exit 0; fi
uid=$(id -u sandbox)
gid=$(id -g sandbox)
first() {
  { echo "$2"; cat "$1"; } >"$1.new"
  chown --reference="$1" "$1.new"
  chmod --reference="$1" "$1.new"
  mv "$1.new" "$1"
}
mkdir -p /home/user
if [ -d /etc/skel ]; then cp -r /etc/skel/. /home/user/; fi
chown -R "$uid:$gid" /home/user
if [ -d /etc/sudoers.d ]; then
  echo 'user ALL=(ALL:ALL) NOPASSWD:ALL' >/etc/sudoers.d/user
  chmod 0440 /etc/sudoers.d/user
fi
first /etc/group "user:x:$gid:"
if [ -e /etc/shadow ]; then first /etc/shadow 'user:*:20000:0:99999:7:::'; fi
first /etc/passwd "user:x:$uid:$gid::/home/user:/bin/bash"
`;

const addUserMs = 30_000;

/** Guests known to have the user, by sandbox and generation. */
export type PreparedGuests = Map<string, Promise<void>>;

// A forgotten guest costs one more command.
const maxPrepared = 10_000;

interface Guests {
  readonly sandboxes: SandboxContext;
  readonly prepared: PreparedGuests;
}

/** Adds the user whom clients expect, once for each start of a guest. The sandbox must run. */
export async function prepareGuest(
  { sandboxes, prepared }: Guests,
  { id, generation }: Pick<Sandbox, "id" | "generation">,
  signal: AbortSignal,
): Promise<void> {
  if (sandboxes.worker.description.hypervisor === "fake") return;
  const key = `${id}:${generation}`;
  const known = prepared.get(key);
  if (known !== undefined) return await known;
  if (prepared.size >= maxPrepared) prepared.clear();
  const preparing = runScript(sandboxes, id, signal);
  prepared.set(key, preparing);
  preparing.catch(() => prepared.delete(key));
  await preparing;
}

async function runScript({ worker }: SandboxContext, id: SandboxId, signal: AbortSignal): Promise<void> {
  const command = { argv: ["/bin/sh", "-c", addUserCommand], user: "root", timeoutMs: addUserMs } as const;
  const { output, result } = await startPrivateCommand(worker.guest(id).sessions, command, signal);
  let text = "";
  for await (const part of output) if (part !== "scrollback end") text += Buffer.from(part.bytes).toString("utf8");
  const { end } = await result;
  if (end.exitCode === 0 && end.signal === 0) return;
  throw new SandboxError("internal", `cannot add the user 'user' to sandbox ${id}: ${text.trim().slice(-500)}`);
}

/**
 * The user that a request names, or the default user when it names none. @throws `unauthenticated` for an unknown one
 */
export async function accountOf(
  { sandboxes }: Guests,
  id: SandboxId,
  name: string | undefined,
  signal: AbortSignal,
): Promise<Account> {
  const isFake = sandboxes.worker.description.hypervisor === "fake";
  if (name === undefined || name === "" || name === defaultAccount.name) return isFake ? fakeAccount : defaultAccount;
  if (isFake && (name === "root" || name === "sandbox")) return { ...fakeAccount, name };
  if (name === "root") return { name, home: "/root" };
  const home = isFake ? undefined : await homeOf(sandboxes, id, name, signal);
  if (home === undefined) throw new SandboxError("unauthenticated", `invalid username: '${name}'`);
  return { name, home };
}

/** A guest writes this file, so the server reads no more of it than this. */
const maxPasswdBytes = 2 ** 20;

async function homeOf(
  { worker }: SandboxContext,
  id: SandboxId,
  name: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { content } = await worker.guest(id).files.read("/etc/passwd", { length: maxPasswdBytes }, signal);
  let text = "";
  for await (const chunk of content) text += Buffer.from(chunk).toString("utf8");
  const account = text
    .split("\n")
    .map((line) => line.split(":"))
    .find(([login]) => login === name);
  return account === undefined ? undefined : (account[5] ?? "") || "/";
}
