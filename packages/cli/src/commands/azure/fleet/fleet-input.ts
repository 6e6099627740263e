import { isIP } from "node:net";
import { list, text, whole } from "#arguments/inputs.ts";
import type { Context } from "../../../context.ts";
import { checkName, defaultLocation, defaultName, defaultUser, targetOptions } from "../azure-options.ts";
import { ownAddress, readPublicKey } from "../operator.ts";
import type { AzureFleet } from "./fleet-plan.ts";

/** Options of the commands that make hosts of a fleet. */
export const fleetOptions = {
  ...targetOptions,
  location: text("NAME", `the region (default: ${defaultLocation})`),
  size: list("the sizes to try, in order (default: Standard_D48as_v6, then others)"),
  sshKey: text("FILE", "the administrator's public key (default: ~/.ssh/id_ed25519.pub or id_rsa.pub)"),
  sshFrom: text("ADDRESS", "the address or range that may use ssh (default: yours, from api.ipify.org)"),
  user: text("NAME", `the administrator (default: ${defaultUser})`),
};

/** Further options of a fleet. */
export const workersOptions = {
  minWorkers: whole("COUNT", "workers at the start and at least (default: 2)"),
  maxWorkers: whole("COUNT", "workers at most (default: 10)"),
  dataDisk: whole("GIB", "the size of each worker's data disk (default: 500)"),
  domain: text("NAME", "the domain of the server and of the ports of sandboxes"),
  tlsCert: text("FILE", "the certificate chain of the domain and of *.DOMAIN"),
  tlsKey: text("FILE", "the key of the certificate"),
};

export interface FleetInput {
  readonly name?: string | undefined;
  readonly location?: string | undefined;
  readonly sshKey?: string | undefined;
  readonly sshFrom?: string | undefined;
  readonly user?: string | undefined;
  readonly minWorkers?: number | undefined;
  readonly maxWorkers?: number | undefined;
  readonly dataDisk?: number | undefined;
  readonly domain?: string | undefined;
  readonly tlsCert?: string | undefined;
  readonly tlsKey?: string | undefined;
  readonly dryRun?: boolean;
}

/** Returns a message about a mistake. */
export function checkFleetInput(input: FleetInput): string | undefined {
  const { name, sshFrom, user, minWorkers = 2, maxWorkers = 10, dataDisk, domain, tlsCert, tlsKey } = input;
  if (minWorkers < 1 || maxWorkers > 600 || minWorkers > maxWorkers)
    return "--min-workers and --max-workers take 1 to 600, the smaller one first";
  if (dataDisk !== undefined && (dataDisk < 32 || dataDisk > 32_767)) return "--data-disk must be from 32 to 32767";
  if (domain !== undefined && !/^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,}$/.test(domain))
    return "--domain takes a name such as sandboxes.example.com";
  if ((tlsCert === undefined) !== (tlsKey === undefined)) return "--tls-cert and --tls-key belong together";
  if (tlsCert !== undefined && domain === undefined)
    return "--tls-cert needs --domain, whose names the certificate has";
  if (sshFrom !== undefined && isIP(sshFrom.split("/")[0] ?? "") === 0)
    return "--ssh-from takes an address or a range such as 192.0.2.0/24";
  if (user !== undefined && !/^[a-z][a-z0-9_-]{0,31}$/.test(user)) return "--user takes the name of a Linux user";
  return checkName(name);
}

/** @throws `invalid_argument` without a public key */
export async function fleetFrom(
  input: FleetInput,
  subscription: string,
  { host, signal }: Pick<Context, "host" | "signal">,
): Promise<AzureFleet> {
  const { dryRun = false } = input;
  return {
    subscription,
    name: input.name ?? defaultName,
    location: input.location ?? defaultLocation,
    user: input.user ?? defaultUser,
    sshKey: dryRun && input.sshKey === undefined ? "YOUR-PUBLIC-KEY" : await readPublicKey(input.sshKey, host.env),
    sshFrom: input.sshFrom ?? (dryRun ? "YOUR-ADDRESS" : await ownAddress(signal)),
    osDiskGib: 100,
    dataDiskGib: input.dataDisk ?? 500,
    domain: input.domain,
    workers: { min: input.minWorkers ?? 2, max: input.maxWorkers ?? 10 },
  };
}
