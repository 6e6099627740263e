import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import { sql, type Transaction } from "kysely";
import type { Tables } from "#database/tables.ts";
import { lockName } from "#database/transaction.ts";

/**
 * Records that the snapshot is unwanted if no reference to it is left. Runs in the transaction that drops a reference.
 */
export async function discardSnapshot(transaction: Transaction<Tables>, snapshotId: SnapshotId): Promise<void> {
  // Of two transactions that drop the last two references, the second one waits here and then sees that none is left.
  await lockName(transaction, snapshotId);
  await sql`
    INSERT INTO unwanted_snapshots (snapshot_id)
    SELECT ${snapshotId}
    WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE snapshot_id = ${snapshotId})
      AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE hibernation_snapshot_id = ${snapshotId})
    ON CONFLICT (snapshot_id) DO NOTHING`.execute(transaction);
}
