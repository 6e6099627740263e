import { SandboxError } from "@opensandbox/wire/errors.ts";
import { cachedFile } from "#system/cached-file.ts";

/** Who a process is to the kernel. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

export interface User {
  readonly name: string;
  readonly home: string;
  readonly shell: string;
  /** Undefined: whoever the agent is. */
  readonly credentials: Credentials | undefined;
}

type Account = Omit<User, "credentials"> & { readonly uid: number; readonly gid: number };

const accounts = cachedFile("/etc/passwd", parseAccounts);
const memberships = cachedFile("/etc/group", parseMemberships);

/** Looks in the image's own files: users come and go in a sandbox. @throws `invalid_argument` */
export function findUser(name: string): User {
  const account = accounts().get(name);
  if (account === undefined) throw unknownUser(name);
  const { uid, gid, home, shell } = account;
  const groups = [gid, ...(memberships().get(name) ?? []).filter((group) => group !== gid)];
  return { name, home, shell, credentials: { uid, gid, groups } };
}

export function unknownUser(name: string): SandboxError {
  return new SandboxError("invalid_argument", `there is no user ${name} in the sandbox`, undefined);
}

/** passwd(5); of two lines with one name the first counts. */
function parseAccounts(text: string): ReadonlyMap<string, Account> {
  const lines = text.split("\n").toReversed();
  return new Map(
    lines.map((line) => {
      const [name = "", , uid, gid, , home = "/", shell = "/bin/sh"] = line.split(":");
      return [name, { name, uid: Number(uid), gid: Number(gid), home: home || "/", shell: shell || "/bin/sh" }];
    }),
  );
}

/** group(5): the groups of each user, beside its own. */
function parseMemberships(text: string): ReadonlyMap<string, readonly number[]> {
  const groups = new Map<string, number[]>();
  for (const line of text.split("\n")) {
    const [, , gid, members = ""] = line.split(":");
    for (const member of members.split(",").filter(Boolean)) {
      const of = groups.get(member);
      if (of === undefined) groups.set(member, [Number(gid)]);
      else of.push(Number(gid));
    }
  }
  return groups;
}
