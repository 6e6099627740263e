import assert from "node:assert/strict";
import { test } from "node:test";
import { fuseDevices } from "./read-ahead.ts";

test("only the mounts of FUSE itself are found, by their device numbers", () => {
  const mountinfo = `22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
40 22 0:31 / /sys/fs/fuse/connections rw - fusectl none rw
110 71 0:42 / /data/m-1/rootfs.disk rw,nosuid,nodev,relatime - fuse /dev/fuse rw,user_id=1900000777
111 71 8:1 / /mnt/ntfs rw - fuseblk /dev/sda1 rw
112 71 0:43 / /data/m-1/workspace.disk rw,nosuid,nodev,relatime - fuse /dev/fuse rw,user_id=1900000777
`;
  assert.deepEqual(fuseDevices(mountinfo), ["0:42", "0:43"]);
});
