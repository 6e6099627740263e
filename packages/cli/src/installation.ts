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

/** @throws `not_supported` for a program that a service could not start from: npm empties the cache of `npx` */
export function requirePermanent(root = installationRoot): void {
  if (!root.includes("/_npx/")) return;
  const ways = "install the Debian package, run install.sh, or use 'npm install --global'";
  throw new SandboxError("not_supported", `${root} is in the cache of npx, from which no service can run: ${ways}`);
}
