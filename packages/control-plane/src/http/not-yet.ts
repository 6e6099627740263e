import { SandboxError } from "@opensandbox/wire/errors.ts";
import { notYet } from "@opensandbox/wire/public/not-yet.ts";
import type { FastifyInstance } from "fastify";

/** Refuses what the published clients may ask for and this server cannot do yet, in words that say so. */
export function serveNotYet(app: FastifyInstance): void {
  for (const [method, url, what] of notYet) {
    app.route({
      method,
      url,
      handler: () => {
        throw new SandboxError("not_supported", `${what} is not there yet`);
      },
    });
  }
}
