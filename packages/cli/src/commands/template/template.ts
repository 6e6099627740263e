import { defineGroup } from "../../command.ts";
import { build } from "./build.ts";
import { create } from "./create.ts";
import { ls } from "./ls.ts";
import { rm } from "./rm.ts";

export const template = defineGroup({
  summary: "Build and manage templates: machines that are ready under a name",
  commands: { create, build, ls, rm },
});
