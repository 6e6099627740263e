import { defineCommand } from "../../command.ts";
import { one, whole } from "#arguments/inputs.ts";

export const wake = defineCommand({
  summary: "Wake a hibernated sandbox",
  description: "Any other use of the sandbox wakes it too.",
  arguments: { id: one("SANDBOX") },
  options: { timeout: whole("SECONDS", "the new idle timeout; 0: never (default: unchanged)") },
  examples: [{ line: "wake sb-1a2b3c4d", shows: "wake a sandbox; its processes continue" }],
  async run({ id, timeout }, { client, print, note, progress, signal }) {
    using shown = progress();
    shown.report("waking the sandbox");
    const { sandboxes } = await client();
    const woken = await sandboxes.wake(id, timeout === undefined ? {} : { idleTimeoutSeconds: timeout }, signal);
    shown.pause();
    if (woken.restoredFrom === "disk")
      note(`the sandbox was booted from its disks: ${woken.restoredBecause ?? "its memory is lost"}`);
    await print(`woke ${id}`, woken);
  },
});
