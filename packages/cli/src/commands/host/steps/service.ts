import { z } from "zod";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";
import { serviceUnit, unitName } from "../units.ts";

const unitFile = `/etc/systemd/system/${unitName}`;

const schema = z.object({ file: ownedFile });

/** The server as a service that starts at boot. */
export function service(launcher: string): Step {
  return defineStep({
    name: "service",
    schema,
    async check(system) {
      if ((await system.read(unitFile)) !== (await unitFor(system, launcher))) {
        return { detail: `${unitFile} is not that of this version` };
      }
      const enabled = await system.ask("systemctl", "is-enabled", unitName);
      if (enabled.code !== 0) return { detail: `${unitName} does not start at boot` };
      const active = await system.ask("systemctl", "is-active", unitName);
      if (active.code === 0) return undefined;
      const state = active.stdout.trim() || "unknown";
      return { detail: `${unitName} is ${state}; 'journalctl --unit ${unitName}' says why` };
    },
    async apply(system, { before, remember }) {
      const unit = await unitFor(system, launcher);
      const changed = (await system.read(unitFile)) !== unit;
      await remember({ file: await claim(system, unitFile, unit, before?.file) });
      await system.write(unitFile, unit);
      await system.change("systemctl", "daemon-reload");
      await system.change("systemctl", "enable", unitName);
      // A restart leaves the machines running, and the next server adopts them.
      await system.change("systemctl", changed ? "restart" : "start", unitName);
      return `wrote ${unitFile}, enabled and started ${unitName}`;
    },
    async undo(system, { file }) {
      // A stop hibernates the sandboxes.
      if ((await system.read(unitFile)) !== undefined) await system.change("systemctl", "disable", "--now", unitName);
      const done = await release(system, file);
      await system.change("systemctl", "daemon-reload");
      return `stopped and disabled ${unitName}; ${done}`;
    },
  });
}

async function unitFor(system: System, launcher: string): Promise<string> {
  const version = /^systemd (\d+)/.exec(await system.change("systemctl", "--version"))?.[1];
  return serviceUnit({ launcher, systemdVersion: Number(version ?? 0) });
}
