import { whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../../command.ts";
import { checkName, defaultName, targetOptions } from "../azure-options.ts";

export const scale = defineCommand({
  summary: "Fit the number of workers of a fleet on Azure to their committed memory, by one step",
  description: `Runs on the server of the fleet, where a timer repeats it, and signs in to Azure with the host's managed identity.
With more than three quarters of the workers' memory committed, it adds machines. With less than half committed without
the least used worker, it drains this worker, and deletes its machine when nothing is left on it.`,
  options: {
    ...targetOptions,
    minWorkers: whole("COUNT", "workers at least (default: 1)"),
    maxWorkers: whole("COUNT", "workers at most (default: 10)"),
  },
  examples: [{ line: "azure fleet scale --subscription ID", shows: "make one step and print it" }],
  check: ({ name, subscription, minWorkers = 1, maxWorkers = 10 }) => {
    if (subscription === undefined) return "--subscription is needed: a managed identity may belong to several";
    if (minWorkers < 1 || maxWorkers > 600 || minWorkers > maxWorkers)
      return "--min-workers and --max-workers take 1 to 600, the smaller one first";
    return checkName(name);
  },
  async run(
    { name = defaultName, subscription = "", minWorkers: min = 1, maxWorkers: max = 10 },
    { host, print, signal },
  ) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const fleet = await import("@opensandbox/server/fleet.ts");
    const { InstanceMetadata } = await import("@opensandbox/server/instance-metadata.ts");
    const { ArmClient } = await import("../resource-manager/arm-client.ts");
    const { identityCredentials } = await import("../resource-manager/credentials.ts");
    const { scaleWorkers } = await import("./scale-workers.ts");
    const config = readConfig(host.env);
    const credentials = identityCredentials(new InstanceMetadata(), host.env, subscription);
    const operator = {
      listWorkers: async () => await fleet.listWorkers(config, signal),
      drainWorker: async (id: string) => await fleet.drainWorker(config, id, signal),
      admitWorker: async (id: string) => await fleet.cordonWorker(config, { id, cordoned: false }, signal),
      removeWorker: async (id: string) => void (await fleet.removeWorker(config, { id, lost: false }, signal)),
    };
    const arm = new ArmClient(credentials);
    const step = await scaleWorkers({ arm, operator, subscription, name, min, max }, signal);
    const { kind, why } = step;
    const what =
      "worker" in step ? `${kind} ${step.worker.id}` : "to" in step ? `${kind} to ${step.to} machines` : kind;
    await print(`${what}: ${why}`, step);
    return 0;
  },
});
