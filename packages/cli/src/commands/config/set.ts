import { text as textOf } from "node:stream/consumers";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

const names = { "api-url": "apiUrl", "api-key": "apiKey" } as const;

export const set = defineCommand({
  summary: "Store which server to ask, or the key for it",
  description: `NAME is api-url or api-key. An empty VALUE removes it; - reads it from standard input. Options and the environment
count more than what is stored. The file can be read by you alone.`,
  arguments: { name: one("NAME"), value: one("VALUE") },
  examples: [
    { line: "config set api-url https://sandboxes.example.com", shows: "the server" },
    { line: "config set api-key - < key.txt", shows: "the key, without it being seen in the list of processes" },
    { line: "config set api-url ''", shows: "forget the server" },
  ],
  check: ({ name, value }) => {
    if (!(name in names)) return `there is no setting "${name}": set api-url or api-key`;
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
  return `api-url must begin with http:// or https://, not "${text}"`;
}
