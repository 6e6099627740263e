import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { ls } from "./ls.ts";
import { rm } from "./rm.ts";

export const snapshot = defineGroup({
  summary: "Build and manage images of your own",
  commands: { create, ls, rm },
});
