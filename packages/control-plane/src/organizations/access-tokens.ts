import { createHmac, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { grants, parseScopes, type Scope } from "@opensandbox/wire/public/scopes.ts";
import type { Clock } from "../clock.ts";
import type { ApiKeyStore } from "./api-key-store.ts";
import type { Caller } from "./caller.ts";

const issuer = "opensandbox";
const audience = "opencomputer-api";

/** The only header that is accepted: no token chooses how it is verified. */
const header = encoded({ alg: "HS256", typ: "JWT" });

interface Claims {
  readonly iss: string;
  readonly aud: string;
  /** The organization. */
  readonly sub: string;
  /** The id of the API key that made it. Absent: the static key. */
  readonly key?: string | undefined;
  readonly actor: string;
  /** Separated by spaces. */
  readonly scope: string;
  /** The only sandbox whose routes it may call. Absent: any of the organization. */
  readonly sandbox?: string | undefined;
  /** A session of the dashboard has made it. */
  readonly session?: true | undefined;
  /** Seconds since 1970. */
  readonly iat: number;
  readonly exp: number;
}

/** Makes and accepts short-lived tokens: JSON Web Tokens (RFC 7519) with HMAC-SHA256. They are stored nowhere. */
export class AccessTokens {
  readonly #key: Buffer;
  readonly #keys: ApiKeyStore;
  readonly #clock: Clock;

  /** @param key signs the tokens; 256 bits, hexadecimal */
  constructor({ key, keys, clock }: { readonly key: string; readonly keys: ApiKeyStore; readonly clock: Clock }) {
    this.#key = Buffer.from(key, "hex");
    this.#keys = keys;
    this.#clock = clock;
  }

  /** A token with the caller's scopes, or with some of them. @throws `permission_denied` for more, or for a token's token */
  create(
    caller: Caller,
    { scopes = caller.scopes, seconds }: { readonly scopes?: readonly Scope[]; readonly seconds: number },
  ): string {
    if (caller.isToken === true) {
      throw new SandboxError("permission_denied", "a token cannot make tokens: use an API key");
    }
    const missing = scopes.find((scope) => !grants(caller.scopes, scope));
    if (missing !== undefined) throw new SandboxError("permission_denied", `the API key lacks the scope ${missing}`);
    return this.#sign(caller, scopes, seconds);
  }

  /** A token for one sandbox, with the caller's scopes for sandboxes. @throws `permission_denied` for a token's token */
  createForSandbox(caller: Caller, sandboxId: string, seconds: number): string {
    if (caller.isToken === true) {
      throw new SandboxError("permission_denied", "a token cannot make tokens: use an API key");
    }
    const scopes = caller.scopes.filter((scope) => scope.startsWith("sandboxes:"));
    return this.#sign(caller, scopes, seconds, sandboxId);
  }

  #sign(caller: Caller, scopes: readonly Scope[], seconds: number, sandbox?: string): string {
    const now = Math.floor(this.#clock.now() / 1000);
    const { organizationId: sub, keyId: key, actor } = caller;
    const claims: Claims = {
      iss: issuer,
      aud: audience,
      sub,
      key,
      actor,
      scope: scopes.join(" "),
      sandbox,
      session: caller.isSession,
      iat: now,
      exp: now + seconds,
    };
    const signed = `${header}.${encoded(claims)}`;
    return `${signed}.${this.#signatureOf(signed)}`;
  }

  /** Whether the text is a token of this server, expired or not. */
  isToken(text: string): boolean {
    return this.#claimsOf(text) !== undefined;
  }

  /**
   * The owner of the key that made the token. Undefined: the text is not a token of this server. @throws
   * `permission_denied` for a token that has expired, and after the revocation of its key
   */
  async callerOf(text: string): Promise<Caller | undefined> {
    const claims = this.#claimsOf(text);
    if (claims === undefined) return undefined;
    const now = this.#clock.now();
    if (claims.exp * 1000 <= now) throw new SandboxError("permission_denied", "the token has expired: get a new one");
    const { sub: organizationId, key: keyId, actor, scope, sandbox, session } = claims;
    if (keyId !== undefined && !(await this.#keys.accepted([keyId], now)).has(keyId)) {
      throw new SandboxError("permission_denied", "the API key of the token was revoked or has expired");
    }
    const scopes = parseScopes(scope.split(" "));
    return {
      organizationId,
      ...(keyId === undefined ? {} : { keyId }),
      actor: `${actor}, by a token`,
      scopes,
      isToken: true,
      ...(session === undefined ? {} : { isSession: session }),
      ...(sandbox === undefined ? {} : { sandboxId: sandbox }),
    };
  }

  #claimsOf(text: string): Claims | undefined {
    const [first, second = "", signature = "", ...rest] = text.split(".");
    if (first !== header || rest.length > 0) return undefined;
    const expected = Buffer.from(this.#signatureOf(`${first}.${second}`));
    const given = Buffer.from(signature);
    if (expected.length !== given.length || !timingSafeEqual(expected, given)) return undefined;
    const claims = JSON.parse(Buffer.from(second, "base64url").toString("utf8")) as Claims;
    return claims.iss === issuer && claims.aud === audience ? claims : undefined;
  }

  #signatureOf(text: string): string {
    return createHmac("sha256", this.#key).update(text).digest("base64url");
  }
}

function encoded(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}
