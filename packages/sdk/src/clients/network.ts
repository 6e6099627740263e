import {
  getNetwork,
  getNetworkLog,
  type NetworkReply,
  setNetwork,
  writableEgress,
} from "@opensandbox/wire/public/sandboxes/network.ts";
import type { HttpClient } from "#transport/http.ts";

/** Domains, `*.domains`, IPv4 addresses and ranges. */
export interface Egress {
  /** All that may be reached. Absent: everything on the internet. Empty: nothing. */
  readonly allow?: readonly string[];
  /** What may not be reached although it is allowed. */
  readonly deny?: readonly string[];
}

/** What a sandbox may reach. */
export interface Network {
  readonly enabled: boolean;
  readonly egress?: Egress;
  /** What of this does not hold on the server's host, in words. */
  readonly notEnforced: readonly string[];
}

export interface SetNetwork {
  /** Absent: as it is. */
  readonly enabled?: boolean;
  /** Absent: as it is. Without any list: no rules. */
  readonly egress?: Egress;
}

/** Something that a sandbox was refused. */
export interface NetworkRefusal {
  /** The last time. */
  readonly at: string;
  /** How often within the last hour. */
  readonly count: number;
  readonly protocol: string;
  readonly host?: string | undefined;
  readonly address?: string | undefined;
  readonly port?: number | undefined;
  readonly reason: string;
}

export interface NetworkClient {
  get(sandboxId: string, signal?: AbortSignal): Promise<Network>;
  /** At once, also for connections that exist. */
  set(sandboxId: string, request: SetNetwork, signal?: AbortSignal): Promise<Network>;
  /** What was refused within the last hour, the newest first. */
  log(sandboxId: string, signal?: AbortSignal): Promise<readonly NetworkRefusal[]>;
}

export function networkClient(http: HttpClient): NetworkClient {
  return {
    async get(id, signal) {
      return networkOf(await http.call(getNetwork, { parameters: { id } }, signal));
    },
    async set(id, { enabled, egress }, signal) {
      const body = {
        ...(enabled === undefined ? {} : { networkEnabled: enabled }),
        ...(egress === undefined ? {} : { egress: writableEgress(egress) }),
      };
      return networkOf(await http.call(setNetwork, { parameters: { id }, body }, signal));
    },
    async log(id, signal) {
      return await http.call(getNetworkLog, { parameters: { id } }, signal);
    },
  };
}

function networkOf({ networkEnabled, egress, notEnforced = [] }: NetworkReply): Network {
  return { enabled: networkEnabled, ...(egress === undefined ? {} : { egress: writableEgress(egress) }), notEnforced };
}
