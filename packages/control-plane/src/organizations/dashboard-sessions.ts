import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { allScopes, parseScopes } from "@opensandbox/wire/public/scopes.ts";
import type { Clock } from "../clock.ts";
import { defaultOrganizationId } from "./api-keys.ts";
import type { Caller } from "./caller.ts";

/** The life of a session. */
const sessionSeconds = 12 * 3600;
/** The life of a sign-in link: long enough to notice it in a terminal. */
const linkMs = 15 * 60_000;
/** Unused links at a time. The oldest one gives way. */
const maxLinks = 100;

interface Claims {
  readonly id: string;
  readonly organizationId: string;
  /** Absent: the static key, or a sign-in link. */
  readonly keyId?: string | undefined;
  readonly actor: string;
  /** Separated by spaces. */
  readonly scopes: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** A new session, in two parts. Neither opens anything without the other. */
export interface OpenedSession {
  /** The value of the cookie, which no script can read. */
  readonly cookie: string;
  /** Kept by the page. Browsers send cookies to every port of a host, but a page's data stays with its origin. */
  readonly csrfToken: string;
  readonly seconds: number;
}

/**
 * Sessions of the dashboard. A session is a signed value that is stored nowhere; it opens no route of the API, but is
 * exchanged for tokens that live for minutes. The revocation of a session's key ends those tokens.
 */
export class DashboardSessions {
  readonly #key: Buffer;
  readonly #clock: Clock;
  /** The ids of sessions that were closed before their end, with that end. */
  readonly #closed = new Map<string, number>();
  /** The ends of unused links, by code. */
  readonly #links = new Map<string, number>();

  /**
   * @param key 256 bits, hexadecimal
   * @param staticKey the only key of the server: its change ends all sessions
   */
  constructor({
    key,
    staticKey = "",
    clock,
  }: {
    readonly key: string;
    readonly staticKey?: string | undefined;
    readonly clock: Clock;
  }) {
    this.#key = createHmac("sha256", Buffer.from(key, "hex")).update(staticKey).digest();
    this.#clock = clock;
  }

  /** Differs between servers, so that two on one host do not replace each other's cookie. */
  get cookieName(): string {
    return `opensandbox_${this.#sign("cookie name").slice(0, 8)}`;
  }

  /** @throws `permission_denied` for a token, whose life a session would prolong */
  open(caller: Caller): OpenedSession {
    if (caller.isToken === true) {
      throw new SandboxError("permission_denied", "a token cannot open a session: sign in with an API key");
    }
    const { organizationId, keyId, actor, scopes } = caller;
    const claims: Claims = {
      ...{ id: randomBytes(16).toString("hex"), organizationId, keyId, actor, scopes: scopes.join(" ") },
      expiresAt: this.#clock.now() + sessionSeconds * 1000,
    };
    const text = Buffer.from(JSON.stringify(claims)).toString("base64url");
    return {
      cookie: `${text}.${this.#sign(`session ${text}`)}`,
      csrfToken: this.#sign(`csrf ${claims.id}`),
      seconds: sessionSeconds,
    };
  }

  /** The owner of a session. @throws `unauthenticated` when one of its parts is missing or wrong, or when it has ended */
  callerOf(cookie: string | undefined, csrfToken: string | undefined): Caller {
    const claims = this.#claimsOf(cookie, csrfToken);
    if (claims === undefined) throw new SandboxError("unauthenticated", "no session of the dashboard: sign in");
    const { organizationId, keyId, actor, scopes } = claims;
    const own = keyId === undefined ? {} : { keyId };
    return {
      ...{ organizationId, ...own, actor: `${actor}, in the dashboard`, scopes: parseScopes(scopes.split(" ")) },
      isSession: true,
    };
  }

  /** Closes a session. Closing one that has ended changes nothing. */
  close(cookie: string | undefined, csrfToken: string | undefined): void {
    const claims = this.#claimsOf(cookie, csrfToken);
    if (claims === undefined) return;
    const now = this.#clock.now();
    for (const [id, expiresAt] of this.#closed) if (expiresAt <= now) this.#closed.delete(id);
    this.#closed.set(claims.id, claims.expiresAt);
  }

  /** The code of a link that opens one session of the default organization, with all scopes. */
  createLink(): string {
    const [oldest] = this.#links.keys();
    if (oldest !== undefined && this.#links.size >= maxLinks) this.#links.delete(oldest);
    const code = randomBytes(16).toString("base64url");
    this.#links.set(code, this.#clock.now() + linkMs);
    return code;
  }

  /** Uses up a link. @throws `permission_denied` for a link that is used, expired or of another server */
  takeLink(code: string): Caller {
    const expiresAt = this.#links.get(code) ?? 0;
    this.#links.delete(code);
    if (expiresAt > this.#clock.now()) {
      return { organizationId: defaultOrganizationId, actor: "a sign-in link", scopes: allScopes };
    }
    const message = "the sign-in link was used, has expired or belongs to another server: sign in with an API key";
    throw new SandboxError("permission_denied", message);
  }

  #claimsOf(cookie = "", csrfToken = ""): Claims | undefined {
    const [text = "", signature = ""] = cookie.split(".");
    if (!isSame(signature, this.#sign(`session ${text}`))) return undefined;
    const claims = JSON.parse(Buffer.from(text, "base64url").toString("utf8")) as Claims;
    const isOpen = claims.expiresAt > this.#clock.now() && !this.#closed.has(claims.id);
    return isOpen && isSame(csrfToken, this.#sign(`csrf ${claims.id}`)) ? claims : undefined;
  }

  #sign(text: string): string {
    return createHmac("sha256", this.#key).update(text).digest("hex");
  }
}

function isSame(given: string, expected: string): boolean {
  const [first, second] = [Buffer.from(given), Buffer.from(expected)];
  return first.length === second.length && timingSafeEqual(first, second);
}
