import { chmod, chown, stat } from "node:fs/promises";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { FileStat, SetAttributesRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { fileStat } from "./file-stat.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath } from "./path-bytes.ts";

/** Changes mode and owner of a file. Returns its new description. */
export async function setAttributes(request: SetAttributesRequest, _stream: Stream, system: System): Promise<FileStat> {
  const path = absolutePath(request.path);
  const located = bytesOfPath(system.locate(path));
  const owner = system.findOwner(request.owner, request.group);
  return await aboutFile(path, async () => {
    const before = await stat(located);
    const { uid = before.uid, gid = before.gid } = owner;
    // The owner first: chown(2) clears the set-user-id bit.
    if (uid !== before.uid || gid !== before.gid) await chown(located, uid, gid);
    if (request.mode !== undefined) await chmod(located, request.mode & 0o7777);
    return fileStat(path, await stat(located));
  });
}
