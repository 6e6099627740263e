import { userInfo } from "node:os";
import { type Administration, openAdministration } from "@opensandbox/control-plane";
import { refuseDuringRestore } from "@opensandbox/worker";
import { requireDatabase } from "./admin-database.ts";
import type { ServerConfig } from "./config.ts";
import { log } from "./log.ts";

/** Opens the organizations and keys of the database that the settings name. @throws `invalid_argument` without one */
export async function administer(config: ServerConfig): Promise<Administration> {
  const location = requireDatabase(config);
  if (typeof location === "string") refuseDuringRestore(config.dataDirectory);
  const clock = { now: () => Date.now(), elapsed: () => performance.now() };
  return await openAdministration(location, { clock, log, user: userInfo().username });
}
