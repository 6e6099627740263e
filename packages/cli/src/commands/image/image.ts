import { defineGroup } from "../../command.ts";
import { build } from "./build.ts";
import { load } from "./load.ts";
import { ls } from "./ls.ts";
import { prune } from "./prune.ts";
import { pull } from "./pull.ts";
import { rm } from "./rm.ts";

export const image = defineGroup({
  summary: "Build, pull, load, list and remove images on this host",
  commands: { build, load, ls, prune, pull, rm },
});
