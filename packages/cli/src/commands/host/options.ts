import type { AcmeChoice } from "./acme/acme-options.ts";

/** `combined`: control plane and worker. `server`: a control plane for the workers of a fleet. `worker`: one of these. */
export const roles = ["combined", "server", "worker"] as const;
export type Role = (typeof roles)[number];

/** The choices of `osb host setup`. A later setup keeps those that it does not repeat. */
export interface HostOptions {
  /** `auto`: the first disk without content; `none`: no disk; else a device, such as /dev/sdc. */
  readonly dataDisk: string;
  readonly firewall: boolean;
  readonly role: Role;
  /** The server whose fleet a worker joins. */
  readonly join?: string | undefined;
  /** How the server's certificate is got. Absent: by the operator. */
  readonly acme?: AcmeChoice | undefined;
  /** Settings of the server, by the name of their environment variable. */
  readonly settings: Readonly<Record<string, string>>;
}

export const defaultOptions: HostOptions = { dataDisk: "auto", firewall: false, role: "combined", settings: {} };

/** The data directory of a server that root runs. */
export const dataDirectory = "/var/lib/opensandbox";
