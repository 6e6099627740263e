import { defineGroup } from "../../command.ts";
import { backup } from "./backup.ts";
import { explain } from "./explain.ts";
import { restore } from "./restore.ts";
import { cordon, uncordon, workers } from "./workers.ts";

export const admin = defineGroup({
  summary: "Back up and restore this host's server, and manage the workers of a fleet",
  commands: { backup, restore, workers, cordon, uncordon, explain },
});
