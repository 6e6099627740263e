import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { deployCheckout } from "./deploy-checkout.ts";

export const deploy = defineCommand({
  summary: "Copy this checkout to a host or a fleet on Azure and set it up",
  description: `Repeats the last part of 'azure create'. Running machines keep running, and the new server adopts them.

In a fleet, the server and each worker that answers get this checkout, one after another. Workers are reached through the
server. Workers that are added later start from the image that 'azure image' built.`,
  options: targetOptions,
  examples: [{ line: "azure deploy", shows: "install this checkout" }],
  check: ({ name }) => checkName(name),
  async run(input, context) {
    return await deployCheckout(input, context, {
      onFleet: async (found, note, signal) => {
        const { deployToFleet } = await import("./fleet/upgrade-fleet.ts");
        const workers = await deployToFleet(found, note, signal);
        return { done: `installed this checkout on the server and ${workers} workers of ${found.host.name}`, workers };
      },
    });
  },
});
