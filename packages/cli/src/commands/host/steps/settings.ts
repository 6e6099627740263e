import { z } from "zod";
import { dataDirectory } from "../options.ts";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";

/** Environment of the server. The operator edits it; a set-up changes only the lines that its options name. */
export const settingsFile = "/etc/opensandbox/server.env";

const head = `# Settings of the server: a line NAME=VALUE each, as 'osb config show' lists them.
# After a change: systemctl restart opensandbox
`;

const schema = z.object({ file: ownedFile });

/** @param wanted values by the name of their environment variable */
export function settings(wanted: Readonly<Record<string, string>>): Step {
  return defineStep({
    name: "settings",
    schema,
    async check(system) {
      const present = await system.read(settingsFile);
      if (present === undefined) return { detail: `${settingsFile} does not exist` };
      const different = Object.keys(wanted).filter((name) => valueIn(present, name) !== wanted[name]);
      if (different.length > 0) return { detail: `${settingsFile} has other values of ${different.join(", ")}` };
      // A setting can be a key.
      if (((await system.modeOf(settingsFile)) ?? 0) & 0o077) return { detail: `other users can read ${settingsFile}` };
      return undefined;
    },
    async apply(system, { before, remember }) {
      const content = withValues((await system.read(settingsFile)) ?? head, wanted);
      await remember({ file: await claim(system, settingsFile, content, before?.file) });
      await system.write(settingsFile, content, 0o600);
      return `wrote ${settingsFile}`;
    },
    undo: async (system, { file }) => await release(system, file),
  });
}

/** The data directory of the service. The operator may have set another one. */
export async function dataDirectoryOf(system: System): Promise<string> {
  return valueIn((await system.read(settingsFile)) ?? "", "OPENSANDBOX_DATA_DIR") ?? dataDirectory;
}

function withValues(text: string, wanted: Readonly<Record<string, string>>): string {
  return Object.entries(wanted).reduce((lines, [name, value]) => {
    const line = `${name}=${value}`;
    // The last assignment counts.
    const others = lines.split("\n").filter((other) => !other.startsWith(`${name}=`));
    return `${others.join("\n").trimEnd()}\n${line}\n`;
  }, text);
}

function valueIn(text: string, name: string): string | undefined {
  const line = text.split("\n").findLast((line) => line.startsWith(`${name}=`));
  return line?.slice(name.length + 1);
}
