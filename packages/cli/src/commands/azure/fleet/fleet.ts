import { defineGroup } from "../../../command.ts";
import { boot } from "./boot.ts";
import { create } from "./create.ts";
import { scale } from "./scale.ts";

export const fleet = defineGroup({
  summary: "Create and run a fleet on Azure",
  commands: { create, boot, scale },
});
