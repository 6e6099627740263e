import { defineGroup } from "../../command.ts";
import { backup } from "./backup.ts";
import { restore } from "./restore.ts";

export const admin = defineGroup({
  summary: "Back up and restore the data directory of this host's server",
  commands: { backup, restore },
});
