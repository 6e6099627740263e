import { connect, type Client } from "@opensandbox/sdk";
import {
  createSessionToken,
  csrfHeader,
  signIn as signInRoute,
  signOut as signOutRoute,
  type SessionToken,
} from "@opensandbox/wire/dashboard.ts";
import type { Route } from "@opensandbox/wire/route.ts";

/** The page's half of the session. It opens nothing without the cookie, which scripts cannot read. */
const storageKey = "opensandbox-csrf";

/** A token is replaced this long before its end. */
const renewBeforeMs = 60_000;

/** Opens a session by an API key, or by the code of a one-time link. */
export async function signIn(by: { readonly apiKey: string } | { readonly link: string }): Promise<void> {
  const response = await send(signInRoute, by);
  const { csrfToken } = (await response.json()) as { readonly csrfToken: string };
  localStorage.setItem(storageKey, csrfToken);
}

export async function signOut(): Promise<void> {
  await send(signOutRoute);
  localStorage.removeItem(storageKey);
}

/** Whether this browser may have a session. */
export function mayHaveSession(): boolean {
  return localStorage.getItem(storageKey) !== null;
}

/** A token of the API. Undefined: there is no session, or it has ended. */
export async function fetchToken(): Promise<SessionToken | undefined> {
  const response = await send(createSessionToken, undefined, [401]);
  return response.status === 401 ? undefined : createSessionToken.reply?.parse(await response.json());
}

/** A client of this page's server, whose requests carry the session's current token. */
export function clientOf(first: SessionToken, onEnd: () => void): Client {
  let current = held(first);
  let renewing: Promise<SessionToken | undefined> | undefined;
  return connect({
    url: location.origin,
    async apiKey() {
      if (performance.now() < current.renewAt) return current.token;
      renewing ??= fetchToken().finally(() => {
        renewing = undefined;
      });
      const next = await renewing;
      if (next === undefined) {
        onEnd();
        throw new Error("the session has ended: sign in again");
      }
      current = held(next);
      return current.token;
    },
  });
}

function held({ token, expiresInSeconds }: SessionToken): { readonly token: string; readonly renewAt: number } {
  return { token, renewAt: performance.now() + expiresInSeconds * 1000 - renewBeforeMs };
}

async function send(route: Route<never> | Route, body?: object, expected: readonly number[] = []): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(route.path, {
      method: route.method,
      headers: {
        [csrfHeader]: localStorage.getItem(storageKey) ?? "",
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch (cause) {
    throw new Error("the server does not answer", { cause });
  }
  if (response.ok || expected.includes(response.status)) return response;
  const reply = (await response.json().catch(() => ({}))) as { readonly error?: string };
  throw new Error(reply.error ?? `the server answered with status ${response.status}`);
}
