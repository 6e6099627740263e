import type { Explanation, MemberReport } from "@opensandbox/control-plane/fleet.ts";
import type { ServerConfig } from "../config.ts";
import { callFleet, type FleetCall } from "./fleet-client.ts";
import { makeCredentials, parseToken, readCredentials, storeToken, tokenOf } from "./fleet-token.ts";
import { serverUrlOf, storeServerUrl } from "./server-url.ts";

export type { Explanation, MemberReport };

export interface FleetInit {
  readonly token: string;
  /** The file that holds it. */
  readonly file: string;
}

/** Makes the credentials of a new fleet and stores them in the data directory. Earlier ones stop working. */
export async function initFleet({ dataDirectory }: ServerConfig): Promise<FleetInit> {
  const token = tokenOf(await makeCredentials());
  return { token, file: await storeToken(dataDirectory, token) };
}

/**
 * Stores the fleet's token and its server's address for the worker of this data directory, after the server has accepted
 * the token.
 */
export async function joinFleet(
  { dataDirectory }: ServerConfig,
  { url, token }: { readonly url: string; readonly token: string },
  signal: AbortSignal,
): Promise<void> {
  await callFleet({ url, credentials: parseToken(token), method: "GET", path: "/workers" }, signal);
  await storeToken(dataDirectory, token.trim());
  await storeServerUrl(dataDirectory, url);
}

export async function listWorkers(config: ServerConfig, signal: AbortSignal): Promise<MemberReport[]> {
  return (await ask(config, { method: "GET", path: "/workers" }, signal)) as MemberReport[];
}

export async function cordonWorker(
  config: ServerConfig,
  { id, cordoned }: { readonly id: string; readonly cordoned: boolean },
  signal: AbortSignal,
): Promise<void> {
  const path = `/workers/${encodeURIComponent(id)}/cordon`;
  await ask(config, { method: "POST", path, body: { cordoned } }, signal);
}

/** Begins to move the sandboxes of a worker to others. `osb admin uncordon` ends it. */
export async function drainWorker(config: ServerConfig, id: string, signal: AbortSignal): Promise<void> {
  await ask(config, { method: "POST", path: `/workers/${encodeURIComponent(id)}/drain`, body: {} }, signal);
}

/** Removes a worker that does not answer. `lost`: its host is off, and its sandboxes continue from what is stored. */
export async function removeWorker(
  config: ServerConfig,
  { id, lost }: { readonly id: string; readonly lost: boolean },
  signal: AbortSignal,
): Promise<{ readonly recovered: number; readonly lost: number }> {
  const path = `/workers/${encodeURIComponent(id)}/remove`;
  const removed = await ask(config, { method: "POST", path, body: { lost } }, signal);
  return removed as { readonly recovered: number; readonly lost: number };
}

/** Why a sandbox was placed where it is, or where it would be placed now. */
export async function explainPlacement(config: ServerConfig, id: string, signal: AbortSignal): Promise<Explanation> {
  return (await ask(config, { method: "GET", path: `/placements/${encodeURIComponent(id)}` }, signal)) as Explanation;
}

async function ask(
  config: ServerConfig,
  call: Omit<FleetCall, "url" | "credentials">,
  signal: AbortSignal,
): Promise<unknown> {
  const credentials = await readCredentials(config.dataDirectory, config.fleetToken);
  return await callFleet({ ...call, credentials, url: await serverUrlOf(config) }, signal);
}
