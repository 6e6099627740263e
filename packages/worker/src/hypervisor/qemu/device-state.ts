import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The name of a vhost-vsock device's section, after the device's place on the bus. */
const vsockSection = "/virtio-vhost_vsock";

/** Bytes that begin a section and its footer (QEMU_VM_SECTION_FULL and QEMU_VM_SECTION_FOOTER in migration/savevm.c). */
const sectionFull = 0x04;
const sectionFooter = 0x7e;

/**
 * A device state without the section of its vsock device. QEMU refuses a state with a section that no device reads, and a
 * host without vhost-vsock can have no such device.
 *
 * A section is the byte 4, its number in 4 bytes, its name after a byte with its length, its instance and version in 4
 * bytes each, data of unknown length, and a footer: the byte 0x7e and the number. Another section follows.
 * @throws `incompatible` when there is no such section
 */
export function withoutVsock(state: Buffer): Buffer {
  const name = state.indexOf(vsockSection);
  const start = name === -1 ? undefined : sectionStart(state, name);
  const end = start === undefined ? undefined : sectionEnd(state, start);
  if (start === undefined || end === undefined) {
    throw new SandboxError("incompatible", "the state of the devices has no section of a vsock device", {
      reason: "machine",
    });
  }
  return Buffer.concat([state.subarray(0, start), state.subarray(end)]);
}

/** The start of the section whose name has a slash at `slash`. The place on a bus before the slash has 12 characters. */
function sectionStart(state: Buffer, slash: number): number | undefined {
  const place = "0000:00:00.0".length;
  const start = slash - place - headerBytes;
  if (start < 0 || nameAt(state, start) === undefined) return undefined;
  return state[start + headerBytes - 1] === place + vsockSection.length ? start : undefined;
}

/** The byte 4, a number and the length of the name. */
const headerBytes = 6;

/** The offset after the footer that another section follows. */
function sectionEnd(state: Buffer, start: number): number | undefined {
  const number = state.subarray(start + 1, start + 5);
  const footer = Buffer.concat([Buffer.of(sectionFooter), number]);
  for (let at = state.indexOf(footer, start); at !== -1; at = state.indexOf(footer, at + 1)) {
    const end = at + footer.length;
    const follows = nameAt(state, end) !== undefined && state.readUInt32BE(end + 1) > number.readUInt32BE();
    if (follows) return end;
  }
  return undefined;
}

/** The name of the section that starts at `start`; undefined when none does. */
function nameAt(state: Buffer, start: number): string | undefined {
  if (state[start] !== sectionFull) return undefined;
  const length = state[start + headerBytes - 1] ?? 0;
  const name = state.subarray(start + headerBytes, start + headerBytes + length).toString("latin1");
  return name.length === length && /^[ -~]+$/.test(name) ? name : undefined;
}
