import { defineCommand } from "../../command.ts";
import { one, text, wholeArgument } from "#arguments/inputs.ts";

export const create = defineCommand({
  summary: "Give a port of a sandbox a host name, and print the name",
  description:
    "Every port of a sandbox is served as SANDBOX-pPORT under the server's domain, with or without this command. A named " +
    "port appears in 'preview list' and may also have a host name of your own, which a DNS record proves to be yours: the " +
    "first attempt says which one. When the record vanishes, the host name stops working within about an hour.",
  arguments: { id: one("SANDBOX"), port: wholeArgument("PORT") },
  options: { domain: text("NAME", "a host name of your own, whose DNS record points to the server") },
  examples: [
    { line: "preview create sb-1a2b3c4d 3000", shows: "print a host name to open in a browser" },
    { line: "preview create sb-1a2b3c4d 80 --domain app.example.com", shows: "use a host name of your own" },
  ],
  async run({ id, port, domain }, { client, print, signal }) {
    const { previews } = await client();
    const made = await previews.create(id, { port, ...(domain === undefined ? {} : { domain }) }, signal);
    await print(made.customHostname ?? made.hostname, made);
  },
});
