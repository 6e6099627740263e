import { readFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly home: string;
  readonly shell: string;
}

/** Looks in the image's own files each time: users come and go in a sandbox. @throws `invalid_argument` */
export function findUser(name: string): User {
  for (const line of readFileSync("/etc/passwd", "utf8").split("\n")) {
    const [user = "", , uid, gid, , home = "/", shell = "/bin/sh"] = line.split(":");
    if (user !== name) continue;
    return { name, uid: Number(uid), gid: Number(gid), groups: groupsOf(name, Number(gid)), home, shell };
  }
  throw new SandboxError("invalid_argument", `there is no user ${name} in the sandbox`, undefined);
}

function groupsOf(name: string, primary: number): number[] {
  const groups = [primary];
  for (const line of readFileSync("/etc/group", "utf8").split("\n")) {
    const [, , gid, members = ""] = line.split(":");
    if (members.split(",").includes(name) && Number(gid) !== primary) groups.push(Number(gid));
  }
  return groups;
}
