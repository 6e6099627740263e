import { randomUUID } from "node:crypto";
import { newSandboxId, newSnapshotId } from "@opensandbox/wire/ids.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import type { Image } from "#images/image.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

const createdAt = new Date(1_700_000_000_000);

/** A running sandbox whose every optional property has a value. */
export function sandboxForTest(changes: Partial<Sandbox> = {}): Sandbox {
  return {
    id: newSandboxId(),
    organizationId: "org-1",
    state: "running",
    generation: 1,
    workerId: "worker-1",
    image: "default",
    vcpus: 2,
    memoryMib: 1024,
    workspaceMib: 20_480,
    networkEnabled: true,
    egress: { allow: ["example.com"] },
    secretStores: ["store-1", "store-2"],
    authorityId: "authority-1",
    envs: { A: "\u0000 \u{1F600}" },
    metadata: { b: "c" },
    alias: "näme",
    idleTimeoutSeconds: 300,
    hidden: false,
    ephemeral: false,
    idempotencyKey: randomUUID(),
    createdAt,
    startedAt: new Date(createdAt.getTime() + 1),
    expiresAt: new Date(createdAt.getTime() + 2),
    endedAt: new Date(createdAt.getTime() + 3),
    endReason: "none",
    fromCheckpointId: randomUUID(),
    lastPatchSequence: 3,
    patchError: "failed",
    hibernationSnapshotId: newSnapshotId(),
    hibernationSizeBytes: 2 ** 40,
    restoredFrom: "memory",
    restoredBecause: "a reason",
    recoveredFrom: "a checkpoint",
    bootsOnUse: true,
    tags: { t: "u" },
    tagsUpdatedAt: new Date(createdAt.getTime() + 4),
    scalingLocked: true,
    autoscale: { enabled: true, minMemoryMib: 512, maxMemoryMib: 2048 },
    previewTokenHash: "ab".repeat(32),
    forwardedPort: 80,
    hostPort: 40_000,
    cpuPercent: 50,
    maxPids: 100,
    ...changes,
  };
}

/** A checkpoint that is ready. */
export function checkpointForTest(changes: Partial<Checkpoint> = {}): Checkpoint {
  return {
    id: randomUUID(),
    organizationId: "org-1",
    sandboxId: newSandboxId(),
    name: "a name",
    kind: "full",
    promoteToFull: false,
    status: "ready",
    snapshotId: newSnapshotId(),
    sizeBytes: 2 ** 40,
    isPublic: false,
    hidden: false,
    workerId: "worker-1",
    serverId: "server-1",
    image: "default",
    vcpus: 2,
    memoryMib: 1024,
    workspaceMib: 20_480,
    networkEnabled: true,
    egress: { deny: ["example.com"] },
    secretStores: ["store-1", "store-2"],
    authorityId: "authority-1",
    envs: { A: "b" },
    metadata: {},
    lastPatchSequence: 0,
    createdAt,
    ...changes,
  };
}

/** An image that is being built. */
export function imageForTest(changes: Partial<Image> = {}): Image {
  return {
    id: randomUUID(),
    organizationId: "org-1",
    contentHash: "cd".repeat(32),
    name: "a name",
    manifest: { base: "base", steps: [] },
    status: "building",
    workerId: "worker-1",
    createdAt,
    lastUsedAt: createdAt,
    ...changes,
  };
}
