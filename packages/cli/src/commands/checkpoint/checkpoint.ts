import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { ls } from "./ls.ts";
import { publish } from "./publish.ts";
import { rm } from "./rm.ts";

export const checkpoint = defineGroup({
  summary: "Create and manage checkpoints, which sandboxes are restored to or forked from",
  commands: { create, ls, rm, publish },
});
