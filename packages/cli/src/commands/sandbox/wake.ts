import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const wake = defineCommand({
  summary: "Wake a hibernated sandbox",
  description: "Using it in any way does the same.",
  arguments: { id: one("SANDBOX") },
  options: { timeout: whole("SECONDS", "idle timeout from now on; 0: never (default: the one it had)") },
  examples: [{ line: "wake sb-1a2b3c4d", shows: "its processes go on where they were" }],
  async run({ id, timeout }, { client, print, note, progress, signal }) {
    using shown = progress();
    shown.report("waking the sandbox");
    const { sandboxes } = await client();
    const woken = await sandboxes.wake(id, timeout === undefined ? {} : { idleTimeoutSeconds: timeout }, signal);
    shown.pause();
    if (woken.restoredFrom === "disk") note(`its disks were booted: ${woken.restoredBecause ?? "its memory is lost"}`);
    await print(`woke ${id}`, woken);
  },
});
