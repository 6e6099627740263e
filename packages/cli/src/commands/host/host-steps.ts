import type { HostOptions } from "./options.ts";
import type { Step } from "./step.ts";
import { command } from "./steps/command.ts";
import { dataDisk } from "./steps/data-disk.ts";
import { devices } from "./steps/devices.ts";
import { firewall } from "./steps/firewall.ts";
import { kernelModules } from "./steps/kernel-modules.ts";
import { kernelSettings } from "./steps/kernel-settings.ts";
import { packages } from "./steps/packages.ts";
import { service } from "./steps/service.ts";
import { settings } from "./steps/settings.ts";

/**
 * The steps of a set-up, in order. A removal works backwards.
 * @param launcher the absolute path of the program `opensandbox`
 */
export function hostSteps(options: HostOptions, launcher: string): readonly Step[] {
  return [
    packages(launcher),
    kernelModules,
    devices,
    kernelSettings,
    dataDisk(options.dataDisk),
    command(launcher),
    settings(options.settings),
    ...(options.firewall ? [firewall(options.settings)] : []),
    service(launcher),
  ];
}
