import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { ls } from "./ls.ts";
import { publish } from "./publish.ts";
import { rm } from "./rm.ts";

export const checkpoint = defineGroup({
  summary: "Keep instants of sandboxes, to go back to or to fork",
  commands: { create, ls, rm, publish },
});
