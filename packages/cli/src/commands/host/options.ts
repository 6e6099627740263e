import { z } from "zod";

/** `combined`: control plane and worker. `server`: a control plane for the workers of a fleet. `worker`: one of these. */
export const roles = ["combined", "server", "worker"] as const;
export type Role = (typeof roles)[number];

/** The choices of `osb host setup`. A later setup keeps those that it does not repeat. */
export const hostOptions = z.object({
  /** `auto`: the first disk without content; `none`: no disk; else a device, such as /dev/sdc. */
  dataDisk: z.string(),
  firewall: z.boolean(),
  /** Records of releases without roles lack it. */
  role: z.enum(roles).default("combined"),
  /** The server whose fleet a worker joins. */
  join: z.string().optional(),
  /** Settings of the server, by the name of their environment variable. */
  settings: z.record(z.string(), z.string()),
});
export type HostOptions = z.infer<typeof hostOptions>;

export const defaultOptions: HostOptions = { dataDisk: "auto", firewall: false, role: "combined", settings: {} };

/** The data directory of a server that root runs. */
export const dataDirectory = "/var/lib/opensandbox";
