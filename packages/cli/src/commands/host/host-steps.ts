import type { HostOptions } from "./options.ts";
import type { Step } from "./step.ts";
import { certificate } from "./steps/certificate.ts";
import { command } from "./steps/command.ts";
import { dataDisk } from "./steps/data-disk.ts";
import { devices } from "./steps/devices.ts";
import { firewall } from "./steps/firewall.ts";
import { fleet } from "./steps/fleet.ts";
import { kernelModules } from "./steps/kernel-modules.ts";
import { kernelSettings } from "./steps/kernel-settings.ts";
import { packages } from "./steps/packages.ts";
import { service } from "./steps/service.ts";
import { settings } from "./steps/settings.ts";
import { user } from "./steps/user.ts";

/**
 * The steps of a set-up, in order.
 * @param launcher the absolute path of the program `opensandbox`
 */
export function hostSteps(options: HostOptions, launcher: string): readonly Step[] {
  const { role, acme } = options;
  return everyStep(options, launcher).filter(({ name }) => {
    if (name === "firewall") return options.firewall;
    if (name === "certificate") return acme !== undefined;
    // A server of a fleet runs no machines.
    if (name === "packages" || name === "kernel modules" || name === "devices") return role !== "server";
    if (name === "user") return role === "server";
    return name !== "fleet" || role !== "combined";
  });
}

/** The steps of every role and choice, in the order of a set-up. A removal works backwards. */
export function everyStep(
  { dataDisk: disk, settings: wanted, role, join, acme }: HostOptions,
  launcher: string,
): readonly Step[] {
  return [
    packages(launcher),
    kernelModules,
    devices,
    kernelSettings,
    dataDisk(disk),
    command(launcher),
    user,
    settings(wanted),
    certificate({ launcher, role, domain: wanted["OPENSANDBOX_SANDBOX_DOMAIN"], acme }),
    fleet({ launcher, role, join }),
    firewall(wanted, role),
    service(launcher, role),
  ];
}
