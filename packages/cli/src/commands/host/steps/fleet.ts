import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Role } from "../options.ts";
import { defineStep, type Step } from "../step.ts";
import { dataDirectoryOf } from "./settings.ts";

interface Membership {
  readonly launcher: string;
  readonly role: Role;
  /** The server whose fleet a worker joins. */
  readonly join: string | undefined;
}

/** The token of the fleet in the data directory: a server makes one, and a worker joins with that of its server. */
export function fleet({ launcher, role, join }: Membership): Step {
  return defineStep({
    name: "fleet",
    schema: z.never(),
    async check(system) {
      const file = `${await dataDirectoryOf(system)}/fleet-token`;
      return (await system.exists(file)) ? undefined : { detail: `this host belongs to no fleet: there is no ${file}` };
    },
    async apply(system) {
      const directory = await dataDirectoryOf(system);
      const osb = ["env", `OPENSANDBOX_DATA_DIR=${directory}`, launcher] as const;
      if (role === "server") {
        await system.change(...osb, "fleet", "init");
        return `made the token of a new fleet in ${directory}/fleet-token, with which workers join`;
      }
      if (join === undefined) {
        const message =
          "a worker needs the server of its fleet: OPENSANDBOX_FLEET_TOKEN=... osb host setup --role worker --join https://SERVER:8443";
        throw new SandboxError("invalid_argument", message);
      }
      // The command reads the token from the environment of this process.
      await system.change(...osb, "worker", "join", join);
      return `joined the fleet of ${join}`;
    },
    // The token is part of the data, which a removal keeps: this step records nothing to undo.
    undo: async () => await Promise.resolve("kept the token of the fleet"),
  });
}
