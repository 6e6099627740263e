import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { deployCheckout } from "./deploy-checkout.ts";

export const deploy = defineCommand({
  summary: "Copy this checkout to a host on Azure and set the host up",
  description: `Repeats the last part of 'azure create'. Running machines keep running, and the new server adopts them.`,
  options: targetOptions,
  examples: [{ line: "azure deploy", shows: "install this checkout" }],
  check: ({ name }) => checkName(name),
  run: async (input, context) => await deployCheckout(input, context),
});
