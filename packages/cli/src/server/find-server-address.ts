import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Globals } from "#arguments/global-options.ts";

/** A value and its source. */
export interface Setting {
  readonly value: string;
  readonly from: string;
}

export interface ServerAddress {
  readonly url: Setting;
  /** Absent: no key is configured. */
  readonly apiKey?: Setting;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Finds the server. Sources, in order: options, environment variables, the configuration file, the server that runs on
 * this host for the same user. Undefined when no source names one.
 */
export async function findServerAddress(
  globals: Pick<Globals, "apiUrl" | "apiKey">,
  env: Environment,
): Promise<ServerAddress | undefined> {
  const url = optionOf(globals.apiUrl, "--api-url") ?? variableOf(env, "OPENSANDBOX_API_URL", "OPENCOMPUTER_API_URL");
  const apiKey =
    optionOf(globals.apiKey, "--api-key") ?? variableOf(env, "OPENSANDBOX_API_KEY", "OPENCOMPUTER_API_KEY");
  if (url !== undefined && apiKey !== undefined) return address(url, apiKey);

  const { configFile, readConfigFile } = await import("./config-file.ts");
  const file = configFile(env);
  const config = await readConfigFile(file);
  const keyOfFile = optionOf(config.apiKey, file);
  const known = url ?? optionOf(config.apiUrl, file);
  if (known !== undefined) return address(known, apiKey ?? keyOfFile);

  const { readConfig } = await import("@opensandbox/server/config.ts");
  const { findServer } = await import("@opensandbox/server/server-file.ts");
  const { dataDirectory } = readConfig(env);
  const server = await findServer(dataDirectory);
  if (server === undefined) return undefined;
  const from = `the running server of ${dataDirectory}`;
  // The running server's own key is valid; a configured one may belong to another server.
  return address({ value: server.url, from }, apiKey ?? optionOf(server.apiKey, from) ?? keyOfFile);
}

export function noServer(program: string): SandboxError {
  return new SandboxError(
    "unavailable",
    `no server runs on this host: start one with '${program} up', or name one with --api-url or OPENSANDBOX_API_URL`,
  );
}

function address(url: Setting, apiKey: Setting | undefined): ServerAddress {
  return { url, ...(apiKey === undefined ? {} : { apiKey }) };
}

function optionOf(value: string | undefined, from: string): Setting | undefined {
  return value === undefined || value === "" ? undefined : { value, from };
}

/** The first variable that is set. */
function variableOf(env: Environment, ...names: readonly string[]): Setting | undefined {
  const name = names.find((name) => (env[name] ?? "") !== "");
  return name === undefined ? undefined : optionOf(env[name], name);
}
