import { defineGroup } from "../../command.ts";
import { backup } from "./backup.ts";
import { copyDatabase } from "./copy-database.ts";
import { explain } from "./explain.ts";
import { key } from "./key.ts";
import { migrate } from "./migrate.ts";
import { org } from "./org.ts";
import { restore } from "./restore.ts";
import { rotateMasterKey } from "./rotate-master-key.ts";
import { snapshots } from "./snapshots.ts";
import { drain } from "./drain.ts";
import { removeWorker } from "./remove-worker.ts";
import { cordon, uncordon, workers } from "./workers.ts";

export const admin = defineGroup({
  summary: "Administer this host's server: backups, database, organizations, keys, and workers of a fleet",
  commands: {
    backup,
    restore,
    migrate,
    snapshots,
    "copy-database": copyDatabase,
    org,
    key,
    "rotate-master-key": rotateMasterKey,
    workers,
    cordon,
    uncordon,
    drain,
    "remove-worker": removeWorker,
    explain,
  },
});
