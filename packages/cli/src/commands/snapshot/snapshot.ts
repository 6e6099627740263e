import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { ls } from "./ls.ts";
import { rm } from "./rm.ts";

export const snapshot = defineGroup({
  summary: "Build images of your own by steps, and start sandboxes from them",
  commands: { create, ls, rm },
});
