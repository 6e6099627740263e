import { z } from "zod";
import type { Route } from "./route.ts";

/** The path of the dashboard's page. Everything that belongs to the dashboard lies below it. */
export const dashboardPath = "/dashboard";

/** The header that carries a session's CSRF token. No page of another origin can send it. */
export const csrfHeader = "x-csrf-token";

const SignInBody = z.object({ apiKey: z.string().optional(), link: z.string().optional() });
type SignInBody = z.infer<typeof SignInBody>;

const SignInReply = z.object({ csrfToken: z.string() });
type SignInReply = z.infer<typeof SignInReply>;

/** Opens a session with an API key, or with the code of a one-time link. Its cookie is out of reach for scripts. */
export const signIn: Route<SignInBody, unknown, SignInReply> = {
  method: "POST",
  path: `${dashboardPath}/session`,
  name: "signIn",
  summary: "Open a session of the dashboard",
  access: "open",
  body: SignInBody,
  status: 200,
  reply: SignInReply,
};

/** Closes the session. */
export const signOut: Route = {
  method: "DELETE",
  path: `${dashboardPath}/session`,
  name: "signOut",
  summary: "Close a session of the dashboard",
  access: "open",
  status: 204,
};

const SessionToken = z.object({
  /** Sent in place of an API key. */
  token: z.string(),
  expiresInSeconds: z.int(),
  organization: z.object({ id: z.string(), name: z.string() }),
  actor: z.string(),
  scopes: z.array(z.string()),
  version: z.string(),
});
export type SessionToken = z.infer<typeof SessionToken>;

/** Exchanges the session for a token of the API that lives for minutes. */
export const createSessionToken: Route<unknown, unknown, SessionToken> = {
  method: "POST",
  path: `${dashboardPath}/session/token`,
  name: "createSessionToken",
  summary: "Get a short-lived token for a session of the dashboard",
  access: "open",
  status: 200,
  reply: SessionToken,
};
