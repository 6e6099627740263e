import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { isObject, objectIn } from "#host/protocols/json-line.ts";
import { type MetadataEndpoint, metadataEndpoints } from "../metadata-service.ts";
import type { Refusal } from "../network-record.ts";
import type { Interception } from "../web/secret-proxy.ts";

/*
 * The protocol between the worker and its process of guest-facing services: one JSON value a line. Descriptors travel
 * over a socket of their own, ahead of the line that announces them. Messages of the services are untrusted:
 * `parseFromServices` accepts bounded values of the expected types, and the receiver checks them against the policy.
 */

/** The sockets of one network, in the order in which they are handed over. */
export const socketKinds = ["datagrams", "streams", "metadata", "web"] as const;
export type SocketKind = (typeof socketKinds)[number];

export type ToServices =
  | { readonly kind: "ping" }
  /** The state of one network; answered with `applied`. `sockets` lists those that the process does not have yet. */
  | {
      readonly kind: "network";
      readonly network: number;
      readonly change: number;
      readonly policy: NetworkPolicy;
      /** Hosts of the sandbox's secrets and of its header rules, which the process asks for by `intercept`. */
      readonly secretHosts: readonly string[];
      /** Rises when the secrets or the header rules change. */
      readonly secretsVersion: number;
      readonly sockets: readonly SocketKind[];
    }
  /** The services of the network end; answered with `ended`. */
  | { readonly kind: "gone"; readonly network: number }
  | { readonly kind: "reply"; readonly id: number; readonly reply: Reply };

/** A reply with `descriptor` announces a descriptor on the socket. */
export type Reply =
  | { readonly descriptor: true }
  | { readonly refusal: string }
  | { readonly error: string }
  | { readonly status: number; readonly body: object }
  | { readonly interception: Interception }
  | { readonly done: true };

export type FromServices =
  /** The process has given up its rights and serves from now on. */
  | { readonly kind: "ready" }
  | { readonly kind: "pong" }
  | { readonly kind: "applied"; readonly network: number; readonly change: number }
  /** The process has closed all sockets of the network. */
  | { readonly kind: "ended"; readonly network: number }
  | { readonly kind: "request"; readonly id: number; readonly network: number; readonly request: Request }
  | { readonly kind: "refused"; readonly network: number; readonly refusal: Refusal }
  | { readonly kind: "defect"; readonly network: number; readonly text: string };

export type Request =
  /** A socket to a name server of the host; `attempt` counts from 0, cycling through the servers. */
  | { readonly ask: "resolver"; readonly transport: "udp" | "tcp"; readonly attempt: number }
  /** A socket of the network, connecting to a web server. */
  | { readonly ask: "connect"; readonly name?: string | undefined; readonly address: string; readonly port: number }
  /** What is needed to take part in a connection to a host of the sandbox's secrets: a certificate and values. */
  | { readonly ask: "intercept"; readonly name: string }
  | { readonly ask: "pin"; readonly name: string; readonly addresses: readonly number[]; readonly ttlSeconds: number }
  | { readonly ask: "metadata"; readonly endpoint: MetadataEndpoint; readonly body?: unknown };

/** The longest line of the services has the addresses of the largest DNS answer. */
export const maxLineBytes = 128 * 1024;

const maxNameLength = 255;
const maxTextLength = 4096;
const maxAddresses = 6000;

/** Undefined for an invalid message. Linear in the length of the line. */
export function parseFromServices(line: string): FromServices | undefined {
  const value = objectIn(line);
  if (value === undefined) return undefined;
  const { kind, network, id } = value;
  if (kind === "ready" || kind === "pong") return { kind };
  if (!isCount(network)) return undefined;
  switch (kind) {
    case "applied":
      return isCount(value.change) ? { kind, network, change: value.change } : undefined;
    case "ended":
      return { kind, network };
    case "defect":
      return isText(value.text, maxTextLength) ? { kind, network, text: value.text } : undefined;
    case "refused": {
      const refusal = parseRefusal(value.refusal);
      return refusal && { kind, network, refusal };
    }
    case "request": {
      const request = parseRequest(value.request);
      return request && isCount(id) ? { kind, id, network, request } : undefined;
    }
    default:
      return undefined;
  }
}

function parseRequest(value: unknown): Request | undefined {
  if (!isObject(value)) return undefined;
  const { ask, name, address, port, addresses, ttlSeconds } = value;
  switch (ask) {
    case "resolver": {
      const { transport, attempt } = value;
      if ((transport !== "udp" && transport !== "tcp") || !isCount(attempt)) return undefined;
      return { ask, transport, attempt };
    }
    case "connect":
      if (name !== undefined && !isText(name, maxNameLength)) return undefined;
      if (!isText(address, 15) || !isCount(port) || port > 0xffff) return undefined;
      return { ask, name, address, port };
    case "intercept":
      return isText(name, maxNameLength) ? { ask, name } : undefined;
    case "pin":
      if (!isText(name, maxNameLength) || !isCount(ttlSeconds) || !isAddresses(addresses)) return undefined;
      return { ask, name, addresses, ttlSeconds };
    case "metadata": {
      const endpoint = metadataEndpoints.find((known) => known === value.endpoint);
      return endpoint && { ask, endpoint, body: value.body };
    }
    default:
      return undefined;
  }
}

const protocols = ["dns", "tls", "http"] as const;

function parseRefusal(value: unknown): Refusal | undefined {
  if (!isObject(value)) return undefined;
  const { host, address, port, reason } = value;
  const protocol = protocols.find((known) => known === value.protocol);
  if (protocol === undefined || !isText(reason, maxNameLength)) return undefined;
  if (host !== undefined && !isText(host, maxNameLength)) return undefined;
  if (address !== undefined && !isText(address, 15)) return undefined;
  if (port !== undefined && (!isCount(port) || port > 0xffff)) return undefined;
  return {
    ...{ protocol, reason },
    ...(host === undefined ? {} : { host }),
    ...(address === undefined ? {} : { address }),
    ...(port === undefined ? {} : { port }),
  };
}

/** A non-negative integer of at most 53 bits. */
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Text without control characters other than newlines, because it is logged and shown to users. */
function isText(value: unknown, maxLength: number): value is string {
  // oxlint-disable-next-line no-control-regex
  return typeof value === "string" && value.length <= maxLength && !/[\x00-\x09\x0b-\x1f\x7f-\x9f]/.test(value);
}

function isAddresses(value: unknown): value is number[] {
  return (
    Array.isArray(value) && value.length <= maxAddresses && value.every((one) => isCount(one) && one <= 0xffff_ffff)
  );
}
