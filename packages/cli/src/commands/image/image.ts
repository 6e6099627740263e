import { defineGroup } from "../../command.ts";
import { build } from "./build.ts";
import { ls } from "./ls.ts";
import { rm } from "./rm.ts";

export const image = defineGroup({
  summary: "Build, list and remove images on this host",
  commands: { build, ls, rm },
});
