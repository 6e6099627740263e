import { SandboxError } from "@opensandbox/wire/errors.ts";
import { notYet } from "@opensandbox/wire/public/not-yet.ts";
import type { FastifyInstance } from "fastify";

/** Answers routes of the published clients that this server does not implement. */
export function serveNotYet(app: FastifyInstance): void {
  for (const [method, url, what] of notYet) {
    app.route({
      method,
      url,
      handler: () => {
        throw new SandboxError("not_supported", `${what} is not implemented`);
      },
    });
  }
}
