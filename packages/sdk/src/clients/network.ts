import {
  getNetwork,
  getNetworkLog,
  type NetworkReply,
  setNetwork,
  writableEgress,
} from "@opensandbox/wire/public/sandboxes/network.ts";
import type { HttpClient } from "#transport/http.ts";

/** Egress rules. An entry is a domain, a `*.domain`, an IPv4 address or an IPv4 range. */
export interface Egress {
  /** The only permitted destinations. Absent: the whole internet. Empty: nothing. */
  readonly allow?: readonly string[];
  /** Forbidden destinations; takes precedence over `allow`. */
  readonly deny?: readonly string[];
  /**
   * Headers that HTTPS requests get outside the sandbox, by host: a name, or `*.name` for the names below it. They replace
   * headers of the same names. The server stores and shows them: for a secret, use a secret store.
   */
  readonly headers?: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

/** A sandbox's network policy. */
export interface Network {
  readonly enabled: boolean;
  readonly egress?: Egress;
  /** Parts of the policy that the server's host cannot enforce, as sentences. */
  readonly notEnforced: readonly string[];
}

export interface SetNetwork {
  /** Absent: unchanged. */
  readonly enabled?: boolean;
  /**
   * Absent: unchanged. Lists without `headers` leave the headers, and `headers` alone leave the lists. An empty object: no
   * rules.
   */
  readonly egress?: Egress;
}

/** A destination that a sandbox was refused. */
export interface NetworkRefusal {
  /** When it was last refused. */
  readonly at: string;
  /** Refusals within the last hour. */
  readonly count: number;
  readonly protocol: string;
  readonly host?: string | undefined;
  readonly address?: string | undefined;
  readonly port?: number | undefined;
  readonly reason: string;
}

export interface NetworkClient {
  get(sandboxId: string, signal?: AbortSignal): Promise<Network>;
  /** Changes the policy, for open connections too. */
  set(sandboxId: string, request: SetNetwork, signal?: AbortSignal): Promise<Network>;
  /** Connections refused within the last hour, newest first. */
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
