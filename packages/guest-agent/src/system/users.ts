import { SandboxError } from "@opensandbox/wire/errors.ts";
import { cachedFile } from "#system/cached-file.ts";

/** User, group and supplementary groups of a process. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

export interface User {
  readonly name: string;
  readonly home: string;
  readonly shell: string;
  /** Undefined: the agent's own credentials. */
  readonly credentials: Credentials | undefined;
}

type Account = Omit<User, "credentials"> & { readonly uid: number; readonly gid: number };

const accounts = cachedFile("/etc/passwd", parseAccounts);
const memberships = cachedFile("/etc/group", parseMemberships);
const userNames = cachedFile("/etc/passwd", (text) => byNumber(numbersOf(text)));
const groups = cachedFile("/etc/group", numbersOf);
const groupNames = cachedFile("/etc/group", (text) => byNumber(numbersOf(text)));

/** Looks up a user in the files of the sandbox, where users come and go. @throws `invalid_argument` */
export function findUser(name: string): User {
  const account = accounts().get(name);
  if (account === undefined) throw unknownUser(name);
  const { uid, gid, home, shell } = account;
  const groups = [gid, ...(memberships().get(name) ?? []).filter((group) => group !== gid)];
  return { name, home, shell, credentials: { uid, gid, groups } };
}

/** Resolves names and numbers; an empty name is left out. @throws `invalid_argument` */
export function findOwner(owner: string, group: string): { readonly uid?: number; readonly gid?: number } {
  return {
    ...(owner === "" ? {} : { uid: numberOf(owner) ?? accounts().get(owner)?.uid ?? refuse("user", owner) }),
    ...(group === "" ? {} : { gid: numberOf(group) ?? groups().get(group) ?? refuse("group", group) }),
  };
}

export function nameOfUser(uid: number): string | undefined {
  return userNames().get(uid);
}

export function nameOfGroup(gid: number): string | undefined {
  return groupNames().get(gid);
}

function numberOf(text: string): number | undefined {
  return /^\d{1,10}$/.test(text) ? Number(text) : undefined;
}

function refuse(what: string, name: string): never {
  throw new SandboxError("invalid_argument", `the sandbox has no ${what} named ${name}`);
}

export function unknownUser(name: string): SandboxError {
  return new SandboxError("invalid_argument", `the sandbox has no user named ${name}`);
}

/** Parses passwd(5); the first of two lines with one name counts. */
function parseAccounts(text: string): ReadonlyMap<string, Account> {
  const lines = text.split("\n").toReversed();
  return new Map(
    lines.map((line) => {
      const [name = "", , uid, gid, , home = "/", shell = "/bin/sh"] = line.split(":");
      return [name, { name, uid: Number(uid), gid: Number(gid), home: home || "/", shell: shell || "/bin/sh" }];
    }),
  );
}

/** Parses group(5): the supplementary groups of each user. */
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

/** Parses the first fields that passwd(5) and group(5) share: name, password, number. The first of two lines counts. */
function numbersOf(text: string): ReadonlyMap<string, number> {
  const lines = text.split("\n").toReversed();
  return new Map(
    lines.flatMap((line) => {
      const [name = "", , number = ""] = line.split(":");
      return /^\d+$/.test(number) ? [[name, Number(number)] as const] : [];
    }),
  );
}

function byNumber(numbers: ReadonlyMap<string, number>): ReadonlyMap<number, string> {
  return new Map([...numbers].map(([name, number]) => [number, name]));
}
