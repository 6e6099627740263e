import { text } from "#arguments/inputs.ts";

/** Options of every command of a host on Azure. */
export const targetOptions = {
  name: text("NAME", "the resource group, and the prefix of all names in it (default: opensandbox)"),
  subscription: text("ID", "the subscription (AZURE_SUBSCRIPTION_ID, default: that of 'az account show')"),
};

export const defaultName = "opensandbox";
export const defaultLocation = "eastus";
export const defaultUser = "osb";

/** Valid in the name of a resource group, of a computer and of a DNS label. */
export function checkName(name: string | undefined): string | undefined {
  if (name === undefined || /^[a-z][a-z0-9-]{0,38}[a-z0-9]$/.test(name)) return undefined;
  return "--name takes 2 to 40 lower-case letters, digits and hyphens, and begins with a letter";
}
