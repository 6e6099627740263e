import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Globals } from "#arguments/global-options.ts";

/** A value, and who said so. */
export interface Setting {
  readonly value: string;
  readonly from: string;
}

export interface ServerAddress {
  readonly url: Setting;
  /** Absent: the server may ask for none. */
  readonly apiKey?: Setting;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The server to ask: the one that options name, the environment, the configuration file, or else the one that runs
 * here. Undefined: there is none.
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
  const from = `the server that runs on ${dataDirectory}`;
  // Its own key is sure to be good; one that was configured may be another server's.
  return address({ value: server.url, from }, apiKey ?? optionOf(server.apiKey, from) ?? keyOfFile);
}

export function noServer(program: string): SandboxError {
  return new SandboxError(
    "unavailable",
    `no server runs here: start one with '${program} up', or name one with --api-url or OPENSANDBOX_API_URL`,
  );
}

function address(url: Setting, apiKey: Setting | undefined): ServerAddress {
  return { url, ...(apiKey === undefined ? {} : { apiKey }) };
}

function optionOf(value: string | undefined, from: string): Setting | undefined {
  return value === undefined || value === "" ? undefined : { value, from };
}

/** The first of the variables that is set. */
function variableOf(env: Environment, ...names: readonly string[]): Setting | undefined {
  const name = names.find((name) => (env[name] ?? "") !== "");
  return name === undefined ? undefined : optionOf(env[name], name);
}
