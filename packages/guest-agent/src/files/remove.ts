import { rm } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { PathRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath } from "./path-bytes.ts";

/** Removes a file, or a directory with everything in it. A path that does not exist is removed already. */
export async function remove(request: PathRequest, _stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  const located = system.locate(path);
  // Mount points are looked for first, or a part would be gone before the mount point refuses.
  const mounted = system.mountPoints().find((point) => point === located || point.startsWith(`${located}/`));
  if (located === "/" || mounted !== undefined) {
    throw new SandboxError(
      "invalid_argument",
      `${path} cannot be removed: ${mounted ?? "/"} is a mount point; remove its content instead`,
    );
  }
  await aboutFile(path, () => rm(bytesOfPath(located), { recursive: true, force: true }));
  return {};
}
