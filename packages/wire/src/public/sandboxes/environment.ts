import { z } from "zod";
import type { Route } from "../../route.ts";

const ChangeEnvironmentBody = z
  .object({
    envs: z
      .record(z.string(), z.string().nullable())
      .refine(
        (value) => Object.keys(value).every((name) => name !== "" && !/[=\0]/.test(name)),
        "envs: a name must not be empty nor contain = or NUL",
      )
      .refine(
        (value) => !Object.values(value).some((text) => text?.includes("\0") === true),
        "envs: a value must not contain NUL",
      )
      .meta({ description: "Values by name. null removes the variable; variables that are not named stay." }),
  })
  .meta({ id: "ChangeEnvironment" });
type ChangeEnvironmentBody = z.infer<typeof ChangeEnvironmentBody>;

const EnvironmentReply = z
  .object({ names: z.array(z.string()).meta({ description: "The variables of the sandbox, without their values." }) })
  .meta({ id: "Environment" });
type EnvironmentReply = z.infer<typeof EnvironmentReply>;

export const changeEnvironment: Route<ChangeEnvironmentBody, unknown, EnvironmentReply> = {
  method: "PATCH",
  path: "/api/sandboxes/:id/envs",
  name: "changeEnvironment",
  summary: "Change a sandbox's environment variables",
  description:
    "Commands that start from now on have them; those that run keep theirs. A sandbox that is hibernated has them from its " +
    "next wake.",
  access: "key",
  body: ChangeEnvironmentBody,
  status: 200,
  reply: EnvironmentReply,
};
