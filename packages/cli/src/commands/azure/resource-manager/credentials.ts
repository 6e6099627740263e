import { execFile } from "node:child_process";
import { SandboxError } from "@opensandbox/wire/errors.ts";

type Environment = Readonly<Record<string, string | undefined>>;

export interface Credentials {
  readonly endpoint: string;
  readonly subscription: string;
  readonly token: (signal: AbortSignal) => Promise<string>;
}

interface Token {
  readonly value: string;
  readonly expiresAt: number;
  /** The subscription that `az` has selected. */
  readonly subscription?: string;
}

/** A token is renewed this long before it expires. */
const marginMs = 5 * 60_000;

/** Azure Resource Manager of the public cloud. Those of China and the US government have addresses of their own. */
export const publicEndpoint = "https://management.azure.com";

function endpointOf(env: Environment): string {
  return env["OPENSANDBOX_AZURE_ENDPOINT"] || publicEndpoint;
}

/**
 * Signs in as the service principal of AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or else as the user that
 * `az login` has signed in. @throws `unauthenticated` when neither works, or when no subscription is known
 */
export async function findCredentials(
  env: Environment,
  givenSubscription: string | undefined,
  signal: AbortSignal,
): Promise<Credentials> {
  const endpoint = endpointOf(env);
  const request = isPrincipal(env) ? tokenOfPrincipal : tokenOfAz;
  let token = await request(env, endpoint, signal);
  const subscription = givenSubscription ?? (env["AZURE_SUBSCRIPTION_ID"] || token.subscription);
  if (subscription === undefined) {
    throw new SandboxError(
      "unauthenticated",
      "no subscription is known: pass --subscription or set AZURE_SUBSCRIPTION_ID",
    );
  }
  return {
    endpoint,
    subscription,
    async token(signal) {
      if (token.expiresAt - marginMs < Date.now()) token = await request(env, endpoint, signal);
      return token.value;
    },
  };
}

/** Signs in as the managed identity of this host. */
export function identityCredentials(
  metadata: { token(resource: string, signal: AbortSignal): Promise<Token> },
  env: Environment,
  subscription: string,
): Credentials {
  const endpoint = endpointOf(env);
  let token: Token | undefined;
  return {
    endpoint,
    subscription,
    async token(signal) {
      if (token === undefined || token.expiresAt - marginMs < Date.now())
        token = await metadata.token(endpoint, signal);
      return token.value;
    },
  };
}

function isPrincipal(env: Environment): boolean {
  return Boolean(env["AZURE_TENANT_ID"] && env["AZURE_CLIENT_ID"] && env["AZURE_CLIENT_SECRET"]);
}

/** OAuth 2.0 client credentials (RFC 6749, 4.4), as Microsoft Entra ID serves them. */
async function tokenOfPrincipal(env: Environment, endpoint: string, signal: AbortSignal): Promise<Token> {
  const authority = (env["AZURE_AUTHORITY_HOST"] || "https://login.microsoftonline.com").replace(/\/$/, "");
  const form = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: env["AZURE_CLIENT_ID"] ?? "",
    client_secret: env["AZURE_CLIENT_SECRET"] ?? "",
    scope: `${endpoint}/.default`,
  });
  const url = `${authority}/${encodeURIComponent(env["AZURE_TENANT_ID"] ?? "")}/oauth2/v2.0/token`;
  const response = await fetch(url, { method: "POST", body: form, signal }).catch((cause: Error) => {
    throw new SandboxError("unavailable", `cannot reach ${authority}: ${cause.message}`, { cause });
  });
  const reply = (await response.json().catch(() => ({}))) as {
    access_token?: string;
    expires_in?: number;
    error_description?: string;
  };
  const { access_token: value, expires_in: seconds, error_description: problem } = reply;
  if (value === undefined) {
    throw new SandboxError("unauthenticated", `cannot sign in to Azure: ${problem ?? `HTTP ${response.status}`}`);
  }
  return { value, expiresAt: Date.now() + Number(seconds) * 1000 };
}

async function tokenOfAz(env: Environment, endpoint: string, signal: AbortSignal): Promise<Token> {
  const args = ["account", "get-access-token", "--resource", endpoint, "--output", "json"];
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  execFile("az", args, { env: { ...env }, signal }, (error, stdout, stderr) => {
    if (error === null) return resolve(stdout);
    const missing = error.code === "ENOENT";
    const problem = missing ? "the program az is not installed" : stderr.trim().split("\n").at(-1);
    const remedy = "Run 'az login', or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET";
    reject(new SandboxError("unauthenticated", `cannot sign in to Azure: ${problem}. ${remedy}`, { cause: error }));
  });
  const { accessToken, expires_on, subscription } = JSON.parse(await promise) as {
    accessToken: string;
    /** Seconds since 1970. Older versions of az have only the local time, which does not say enough. */
    expires_on?: number;
    subscription: string;
  };
  return { value: accessToken, expiresAt: expires_on === undefined ? 0 : expires_on * 1000, subscription };
}
