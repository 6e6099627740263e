import { accountName, type AzureFleet, container, databaseHost, serverAddress, vaultName } from "./fleet-plan.ts";

type Boot = { readonly role: "worker" } | { readonly role: "server"; readonly hasTls: boolean };

/** The command of a host's first boot. It names places and no secrets: everyone on a host can read its user data. */
export function bootLine(fleet: AzureFleet, boot: Boot): string {
  const words = ["osb", "azure", "fleet", "boot", "--role", boot.role, "--vault", vaultName(fleet)];
  if (boot.role === "worker") {
    words.push("--server", `https://${serverAddress}:8443`, "--object-store", objectStoreUrl(fleet));
  } else {
    words.push("--database", databaseHost(fleet));
    if (fleet.domain !== undefined) words.push("--domain", fleet.domain);
    if (boot.hasTls) words.push("--tls");
    const { subscription, name, workers } = fleet;
    words.push("--subscription", subscription, "--name", name);
    words.push("--min-workers", `${workers.min}`, "--max-workers", `${workers.max}`);
  }
  return words.join(" ");
}

function objectStoreUrl(fleet: AzureFleet): string {
  return `azblob://${container}/?account=${accountName(fleet)}`;
}
