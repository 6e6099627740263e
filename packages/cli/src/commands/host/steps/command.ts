import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";

const path = "/usr/local/bin/osb";

const schema = z.object({ target: z.string() });

/** The command `osb`, for every user. */
export function command(launcher: string): Step {
  return defineStep({
    name: "command",
    schema,
    async check(system) {
      return (await targetOf(system)) === launcher ? undefined : { detail: `${path} does not start ${launcher}` };
    },
    async apply(system, { before, remember }) {
      const present = await targetOf(system);
      if (present !== undefined && present !== before?.target) {
        throw new SandboxError(
          "unavailable",
          `${path} belongs to another program. Move it away, then run the set-up again`,
        );
      }
      await remember({ target: launcher });
      await system.remove(path);
      await system.link(path, launcher);
      return `linked ${path} to ${launcher}`;
    },
    async undo(system, { target }) {
      const present = await targetOf(system);
      if (present === undefined) return `${path} was not changed`;
      if (present !== target) return `kept ${path}, which was changed after the set-up`;
      await system.remove(path);
      return `removed ${path}`;
    },
  });
}

/** The target of the link; a path that is not a link is its own target. Undefined: nothing is there. */
async function targetOf(system: System): Promise<string | undefined> {
  return (await system.linkTarget(path)) ?? ((await system.exists(path)) ? path : undefined);
}
