import { z } from "zod";

/** The choices of `osb host setup`. A later setup keeps those that it does not repeat. */
export const hostOptions = z.object({
  /** `auto`: the first disk without content; `none`: no disk; else a device, such as /dev/sdc. */
  dataDisk: z.string(),
  firewall: z.boolean(),
  /** Settings of the server, by the name of their environment variable. */
  settings: z.record(z.string(), z.string()),
});
export type HostOptions = z.infer<typeof hostOptions>;

export const defaultOptions: HostOptions = { dataDisk: "auto", firewall: false, settings: {} };

/** The data directory of a server that root runs. */
export const dataDirectory = "/var/lib/opensandbox";
