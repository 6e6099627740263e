import { defineCommand } from "../../command.ts";
import { one, wholeArgument } from "#arguments/inputs.ts";

export const deletePreview = defineCommand({
  summary: "Forget the name of a port; the port is still served",
  arguments: { id: one("SANDBOX"), port: wholeArgument("PORT") },
  examples: [{ line: "preview delete sb-1a2b3c4d 80", shows: "give its domain back" }],
  async run({ id, port }, { client, print, signal }) {
    const { previews } = await client();
    await previews.delete(id, port, signal);
    await print(`forgot port ${port} of ${id}`, { id, port, deleted: true });
  },
});
