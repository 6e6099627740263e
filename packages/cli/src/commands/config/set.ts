import { text as textOf } from "node:stream/consumers";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

const names = { "api-url": "apiUrl", "api-key": "apiKey" } as const;

export const set = defineCommand({
  summary: "Store the server's address or the API key",
  description: `NAME is api-url or api-key. An empty VALUE removes the setting; - reads it from standard input. Options and environment
variables override stored settings. Only you can read the file.`,
  arguments: { name: one("NAME"), value: one("VALUE") },
  examples: [
    { line: "config set api-url https://sandboxes.example.com", shows: "store the server's address" },
    { line: "config set api-key - < key.txt", shows: "store the key without showing it in the process list" },
    { line: "config set api-url ''", shows: "remove the stored address" },
  ],
  check: ({ name, value }) => {
    if (!(name in names)) return `unknown setting "${name}": use api-url or api-key`;
    if (name === "api-url" && value !== "" && value !== "-" && !isServerUrl(value)) return notAnUrl(value);
    return undefined;
  },
  async run({ name, value }, { host, print }) {
    const given = value === "-" ? (await textOf(host.stdin)).trim() : value;
    if (name === "api-url" && given !== "" && !isServerUrl(given)) {
      throw new SandboxError("invalid_argument", notAnUrl(given));
    }
    const { configFile, readConfigFile, writeConfigFile } = await import("#server/config-file.ts");
    const file = configFile(host.env);
    const { [names[name as keyof typeof names]]: _, ...others } = await readConfigFile(file);
    await writeConfigFile(file, given === "" ? others : { ...others, [names[name as keyof typeof names]]: given });
    await print(`${given === "" ? "removed" : "stored"} ${name} in ${file}`, { name, stored: given !== "", file });
  },
});

function isServerUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}

function notAnUrl(text: string): string {
  return `api-url must start with http:// or https://, not "${text}"`;
}
