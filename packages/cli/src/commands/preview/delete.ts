import { defineCommand } from "../../command.ts";
import { one, wholeArgument } from "#arguments/inputs.ts";

export const deletePreview = defineCommand({
  summary: "Remove the host name of a port; the port is still served as SANDBOX-pPORT",
  arguments: { id: one("SANDBOX"), port: wholeArgument("PORT") },
  examples: [{ line: "preview delete sb-1a2b3c4d 80", shows: "remove the name of port 80" }],
  async run({ id, port }, { client, print, signal }) {
    const { previews } = await client();
    await previews.delete(id, port, signal);
    await print(`removed the name of port ${port} of ${id}`, { id, port, deleted: true });
  },
});
