import assert from "node:assert/strict";
import { test } from "node:test";
import { spaceBelow } from "./firecracker-memory.ts";

const mib = 2 ** 20;

/** Lines of proc_pid_maps(5). */
function maps(...mappings: readonly (readonly [start: number, end: number, rights: string, file?: string])[]): string {
  const hex = (address: number): string => address.toString(16);
  const lines = mappings.map(([start, end, rights, file]) =>
    file === undefined
      ? `${hex(start)}-${hex(end)} ${rights} 00000000 00:00 0 `
      : `${hex(start)}-${hex(end)} ${rights} 00000000 fe:00 12                 ${file}`,
  );
  return `${lines.join("\n")}\n`;
}

test("the memory of a booted VM's hotplug is the first space below its boot memory that can hold it", () => {
  const boot = 4096 * mib;
  const text = maps(
    // An arena of the C library, too small.
    [1000 * mib, 1064 * mib, "---p"],
    [2048 * mib, 2560 * mib, "---p"],
    // A mapping of KVM lies between.
    [4090 * mib, 4090 * mib + 12_288, "rw-s", "anon_inode:kvm-vcpu:0"],
    [boot, boot + 512 * mib, "rw-p"],
  );
  assert.equal(spaceBelow(boot, 512 * mib, text), 2048 * mib);
  assert.equal(spaceBelow(boot, 1024 * mib, text), undefined);
});

test("slots that hold memory, and neighbours that are not aligned, do not move it", () => {
  const boot = 4096 * mib;
  const [start, end] = [boot - 512 * mib, boot];
  const page = 4096;
  const text = maps(
    // A stack and its guard, right below.
    [start - 3 * mib, start - mib, "rw-p"],
    [start - mib, start, "---p"],
    // The first slot holds memory; the kernel joins the last one with the boot memory.
    [start, start + 128 * mib, "rw-p"],
    [start + 128 * mib, end - 128 * mib, "---p"],
    [end - 128 * mib, boot + 512 * mib, "rw-p"],
  );
  assert.equal(spaceBelow(boot, 512 * mib, text), start);
  const gap = maps([start, end, "---p"], [end, end + 100 * page, "rw-p"], [boot + 2 * mib, boot + 514 * mib, "rw-p"]);
  assert.equal(spaceBelow(boot + 2 * mib, 512 * mib, gap), start);
});
