import { z } from "zod";
import type { Route } from "../route.ts";

/** The life of a token in seconds, unless the call names another. */
export const defaultTokenSeconds = 600;

const CreateTokenBody = z
  .object({
    scopes: z
      .array(z.string())
      .min(1, "scopes must not be empty")
      .max(20, "scopes must have at most 20 entries")
      .optional()
      .meta({
        description: "Some of the key's scopes. Default: all of them.",
      }),
    expires_in: z
      .int("expires_in must be a whole number of seconds")
      .min(1, "expires_in must be at least 1")
      .max(3600, "expires_in must be at most 3600")
      .optional()
      .meta({ description: `Seconds. Default: ${defaultTokenSeconds}.` }),
  })
  .meta({ id: "CreateToken" });
type CreateTokenBody = z.infer<typeof CreateTokenBody>;

const TokenReply = z.object({ token: z.string(), expires_in: z.int() }).meta({ id: "Token" });
type TokenReply = z.infer<typeof TokenReply>;

export const createToken: Route<CreateTokenBody, unknown, TokenReply> = {
  method: "POST",
  path: "/api/auth/token",
  name: "createToken",
  summary: "Get a short-lived token for a program that must not have the API key",
  description:
    "The token is sent in place of a key: as `Authorization: Bearer`, `X-API-Key` or `?api_key=`. It has the scopes of its " +
    "key, or some of them, and ends with the key's revocation. Calls that it has begun go on after its end. A token " +
    "cannot make tokens.",
  access: "key",
  body: CreateTokenBody,
  status: 200,
  reply: TokenReply,
};
