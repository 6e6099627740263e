import { flag, text, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../../command.ts";
import { checkName, targetOptions } from "../azure-options.ts";

export const boot = defineCommand({
  summary: "Make this host a member of its fleet, at its first boot",
  description: `The user data of each host of a fleet runs this. It reads the secrets of the fleet from the key vault with the host's
managed identity, and sets the host up. It can be repeated, for example after a new certificate.`,
  options: {
    ...targetOptions,
    role: text("ROLE", "server or worker"),
    vault: text("NAME", "the key vault of the fleet"),
    server: text("URL", "the server of a worker's fleet"),
    objectStore: text("URL", "where a worker stores snapshots"),
    database: text("HOST", "the host of a server's database"),
    domain: text("NAME", "the domain of a server"),
    tls: flag("serve HTTPS with the certificate in the vault"),
    minWorkers: whole("COUNT", "workers at least"),
    maxWorkers: whole("COUNT", "workers at most"),
  },
  examples: [{ line: "azure fleet boot --role server --vault NAME --database HOST", shows: "set a server up again" }],
  check: ({ role, vault, server, objectStore, database, name }) => {
    if (role !== "server" && role !== "worker") return "--role must be server or worker";
    if (vault === undefined || !/^[a-z0-9-]{3,24}$/.test(vault)) return "--vault takes the name of a key vault";
    if (role === "worker" && (server === undefined || objectStore === undefined))
      return "a worker needs --server and --object-store";
    if (role === "server" && database === undefined) return "a server needs --database";
    return checkName(name);
  },
  async run(input, context) {
    const { host, note, print, signal } = context;
    const { requireRoot } = await import("../../host/require-root.ts");
    requireRoot(host.program, "azure fleet boot");
    const { InstanceMetadata, metadataEndpoint } = await import("@opensandbox/server/instance-metadata.ts");
    const { System } = await import("../../host/system.ts");
    const { launcherPath } = await import("../../../installation.ts");
    const { bootHost } = await import("./boot-host.ts");
    const { readSecret } = await import("./vault-client.ts");
    const { name, subscription, minWorkers = 1, maxWorkers = 10 } = input;
    const metadata = new InstanceMetadata();
    const vault = {
      url: `https://${input.vault}.vault.azure.net`,
      token: async (signal: AbortSignal) => (await metadata.token("https://vault.azure.net", signal)).value,
    };
    const target = [
      ...(name === undefined ? [] : ["--name", name]),
      ...(subscription === undefined ? [] : ["--subscription", subscription]),
    ];
    await bootHost({
      system: new System(),
      launcher: launcherPath,
      boot:
        input.role === "worker"
          ? { role: "worker", server: input.server ?? "", objectStore: input.objectStore ?? "" }
          : {
              role: "server",
              database: input.database ?? "",
              domain: input.domain,
              hasTls: input.tls,
              scale: [...target, "--min-workers", `${minWorkers}`, "--max-workers", `${maxWorkers}`],
            },
      readSecret: async (secret) => {
        note(`reading the secret ${secret}`);
        return await readSecret(vault, secret, signal);
      },
      metadata: metadataEndpoint,
    });
    await print(`this host is a ${input.role} of its fleet`, { role: input.role });
    return 0;
  },
});
