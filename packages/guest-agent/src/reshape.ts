import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ReshapeReplySchema, ReshapeRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";

/**
 * Brings the running machine to another shape, and reports the memory that it has afterwards. When a part fails, the
 * request is rejected; repeating the request completes it.
 */
export async function reshape(
  { workspaceBytes, limits, processors }: ReshapeRequest,
  system: System,
): Promise<MessageInitShape<typeof ReshapeReplySchema>> {
  if (workspaceBytes > 0n) await system.growWorkspace(workspaceBytes);
  if (processors > 0) system.setProcessors(processors);
  if (limits !== undefined) {
    const { memoryBytes, cpuPercent, maxPids } = limits;
    system.limitCommands({ memoryBytes: Number(memoryBytes), cpuPercent, maxPids });
  }
  const { total, available, needed } = system.memory();
  return {
    memory: { totalBytes: BigInt(total), availableBytes: BigInt(available) },
    neededBytes: BigInt(needed),
  };
}
