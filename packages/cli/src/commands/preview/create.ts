import { defineCommand } from "../../command.ts";
import { one, text, wholeArgument } from "#arguments/inputs.ts";

export const create = defineCommand({
  summary: "Name a port of a sandbox and print its host name",
  description:
    "Every port is served under SANDBOX-pPORT and the server's domain, with or without this. It keeps a list, and " +
    "leads a host name of yours there.",
  arguments: { id: one("SANDBOX"), port: wholeArgument("PORT") },
  options: { domain: text("NAME", "a host name of yours that leads to the server") },
  examples: [
    { line: "preview create sb-1a2b3c4d 3000", shows: "what to open in a browser" },
    { line: "preview create sb-1a2b3c4d 80 --domain app.example.com", shows: "a name of your own" },
  ],
  async run({ id, port, domain }, { client, print, signal }) {
    const { previews } = await client();
    const made = await previews.create(id, { port, ...(domain === undefined ? {} : { domain }) }, signal);
    await print(made.customHostname ?? made.hostname, made);
  },
});
