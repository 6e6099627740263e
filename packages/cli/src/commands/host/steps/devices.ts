import { z } from "zod";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep } from "../step.ts";
import type { System } from "../system.ts";

export const rulesFile = "/etc/udev/rules.d/99-opensandbox.rules";

// systemd-udevd makes the group kvm.
const rules = `# Devices of OpenSandbox; 'osb host remove' deletes this file.
KERNEL=="kvm", GROUP="kvm", MODE="0660"
KERNEL=="vhost-vsock", GROUP="kvm", MODE="0660"
KERNEL=="vhost-net", GROUP="kvm", MODE="0660"
`;

const devicesOfRules = ["/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net"];

const schema = z.object({ file: ownedFile });

/** Access to the devices of virtualization: root and the group kvm, never everybody. */
export const devices = defineStep({
  name: "devices",
  schema,
  async check(system) {
    if ((await system.read(rulesFile)) !== rules) return { detail: `${rulesFile} differs from this version's` };
    const open = await openToAll(system);
    return open.length === 0 ? undefined : { detail: `every user can open ${open.join(", ")}` };
  },
  async apply(system, { before, remember }) {
    await remember({ file: await claim(system, rulesFile, rules, before?.file) });
    await system.write(rulesFile, rules);
    await readRules(system);
    return `wrote ${rulesFile}`;
  },
  async undo(system, { file }) {
    const done = await release(system, file);
    await readRules(system);
    return done;
  },
});

async function readRules(system: System): Promise<void> {
  await system.change("udevadm", "control", "--reload");
  await system.change("udevadm", "trigger", "--subsystem-match=misc", "--settle");
}

async function openToAll(system: System): Promise<string[]> {
  const open: string[] = [];
  for (const path of devicesOfRules) {
    if (((await system.modeOf(path)) ?? 0) & 0o006) open.push(path);
  }
  return open;
}
