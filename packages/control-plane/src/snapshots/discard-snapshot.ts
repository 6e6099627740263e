import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import { sql, type Transaction } from "kysely";
import type { Tables } from "#database/tables.ts";

/** The snapshot has lost a reference, in this transaction: it is unwanted if that was the last one. */
export async function discardSnapshot(transaction: Transaction<Tables>, snapshotId: SnapshotId): Promise<void> {
  await sql`
    INSERT INTO unwanted_snapshots (snapshot_id)
    SELECT ${snapshotId}
    WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE snapshot_id = ${snapshotId})
      AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE hibernation_snapshot_id = ${snapshotId})
    ON CONFLICT (snapshot_id) DO NOTHING`.execute(transaction);
}
