import assert from "node:assert/strict";
import { test } from "node:test";
import { mayStall } from "./file-systems.ts";

const mounts = [
  { mountpoint: "/", type: "ext4" },
  { mountpoint: "/home/sandbox/remote", type: "fuse.sshfs" },
  { mountpoint: "/srv", type: "nfs4" },
  { mountpoint: "/srv", type: "tmpfs" },
];

test("a path may stall on, inside and above a file system that a process or another host serves", () => {
  for (const path of ["/", "/home", "/home/sandbox", "/home/sandbox/remote", "/home/sandbox/remote/deep"]) {
    assert.equal(mayStall(path, mounts), true, path);
  }
});

test("a path beside such a file system does not stall", () => {
  for (const path of ["/home/sandbox/remote-notes", "/home/other", "/usr"]) {
    assert.equal(mayStall(path, mounts), false, path);
  }
});

test("of two file systems at one place, the later one counts inside it", () => {
  assert.equal(mayStall("/srv/data", mounts), false);
  assert.equal(mayStall("/srv/data", mounts.toReversed()), true);
});
