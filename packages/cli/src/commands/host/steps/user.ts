import { z } from "zod";
import { dataDirectory } from "../options.ts";
import { defineStep } from "../step.ts";
import { serverUser } from "../units.ts";

const schema = z.object({ name: z.string() });

/** The user of a server without machines. One that exists is used and never removed. */
export const user = defineStep({
  name: "user",
  schema,
  async check(system) {
    const { code } = await system.ask("getent", "passwd", serverUser);
    return code === 0 ? undefined : { detail: `there is no user ${serverUser}` };
  },
  async apply(system, { remember }) {
    await remember({ name: serverUser });
    const account = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"] as const;
    await system.change("useradd", ...account, "--home-dir", dataDirectory, serverUser);
    return `added the user ${serverUser}`;
  },
  async undo(system, { name }) {
    if ((await system.ask("getent", "passwd", name)).code !== 0) return `there was no user ${name}`;
    await system.change("userdel", name);
    return `removed the user ${name}`;
  },
});
