import { basename } from "node:path";
import { z } from "zod";
import type { Role } from "../options.ts";
import { claim, ownedFile, type OwnedFile, release } from "../owned-file.ts";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";
import { serviceUnit, unitNames } from "../units.ts";

const schema = z.object({ file: ownedFile });

/** The server, or this node of a fleet, as a service that starts at boot. */
export function service(launcher: string, role: Role): Step {
  const unitName = unitNames[role];
  const unitFile = `/etc/systemd/system/${unitName}`;
  return defineStep({
    name: "service",
    schema,
    async check(system) {
      if ((await system.read(unitFile)) !== (await unitFor(system, launcher, role))) {
        return { detail: `${unitFile} differs from this version's` };
      }
      const enabled = await system.ask("systemctl", "is-enabled", unitName);
      if (enabled.code !== 0) return { detail: `${unitName} does not start at boot` };
      const active = await system.ask("systemctl", "is-active", unitName);
      if (active.code === 0) return undefined;
      const state = active.stdout.trim() || "unknown";
      return { detail: `${unitName} is ${state}; 'journalctl --unit ${unitName}' says why` };
    },
    async apply(system, { before, remember }) {
      const retired =
        before !== undefined && before.file.path !== unitFile ? await retire(system, before.file) : undefined;
      const earlier = retired === undefined ? before?.file : undefined;
      const unit = await unitFor(system, launcher, role);
      const changed = (await system.read(unitFile)) !== unit;
      await remember({ file: await claim(system, unitFile, unit, earlier) });
      await system.write(unitFile, unit);
      await system.change("systemctl", "daemon-reload");
      await system.change("systemctl", "enable", unitName);
      // A restart leaves the machines running, and the next server adopts them.
      await system.change("systemctl", changed ? "restart" : "start", unitName);
      const done = `wrote ${unitFile}, enabled and started ${unitName}`;
      return retired === undefined ? done : `${retired}; ${done}`;
    },
    undo: async (system, { file }) => await retire(system, file),
  });
}

/** Stops a unit, which hibernates the sandboxes of its server, and removes its cache and its file. */
async function retire(system: System, file: OwnedFile): Promise<string> {
  const unitName = basename(file.path);
  if ((await system.read(file.path)) !== undefined) {
    await system.change("systemctl", "disable", "--now", unitName);
    await system.change("systemctl", "clean", "--what=cache", unitName);
  }
  const done = await release(system, file);
  await system.change("systemctl", "daemon-reload");
  return `stopped and disabled ${unitName}; ${done}`;
}

async function unitFor(system: System, launcher: string, role: Role): Promise<string> {
  const version = /^systemd (\d+)/.exec(await system.change("systemctl", "--version"))?.[1];
  return serviceUnit({ role, launcher, systemdVersion: Number(version ?? 0), author: "'osb host setup'" });
}
