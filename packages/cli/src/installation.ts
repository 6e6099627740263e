import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The directory of this program: a checkout, or an installed package. */
export const installationRoot = fileURLToPath(new URL("../../..", import.meta.url)).replace(/\/$/, "");

/** The program `opensandbox`, which prepares the host and starts the command line. */
export const launcherPath = `${installationRoot}/opensandbox`;

/** Packages are published without the lock file. */
export function isCheckout(root = installationRoot): boolean {
  return existsSync(`${root}/package-lock.json`);
}

/** @throws `not_supported` in an installed package, which has no sources */
export function requireCheckout(command: string): void {
  if (isCheckout()) return;
  const message = `'${command}' works in a checkout of the sources, and ${installationRoot} is an installed package`;
  throw new SandboxError("not_supported", message);
}
