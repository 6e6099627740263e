import { defineCommand } from "../../command.ts";
import type { Host } from "../../context.ts";
import { findServerAddress, type Setting } from "../../server/find-server-address.ts";
import { table } from "#output/table.ts";

export const show = defineCommand({
  summary: "Show each setting and its source",
  description: "Shows only the ends of the key.",
  examples: [{ line: "config", shows: "show the effective configuration" }],
  async run(_input, { host, globals, print }) {
    const address = await findServerAddress(globals, host.env);
    const settings: Readonly<Record<string, Setting | undefined>> = {
      "api-url": address?.url,
      "api-key": address?.apiKey === undefined ? undefined : { ...address.apiKey, value: masked(address.apiKey.value) },
      ...(await serverSettings(host)),
    };
    const rows = Object.entries(settings).map(([name, setting]) => [
      name,
      setting?.value ?? "-",
      setting?.from ?? "not set",
    ]);
    await print(
      table(["SETTING", "VALUE", "FROM"], rows),
      Object.fromEntries(Object.entries(settings).map(([name, setting]) => [name, setting ?? null])),
    );
  },
});

/** The settings with which a server would start on this host. */
async function serverSettings({ env }: Host): Promise<Record<string, Setting | undefined>> {
  const { readConfig, variables } = await import("@opensandbox/server/config.ts");
  const config = readConfig(env);
  return Object.fromEntries(
    Object.entries(variables).map(([key, variable]) => {
      const value = config[key as keyof typeof variables];
      const name = key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      const from = (env[variable] ?? "") === "" ? `default (${variable})` : variable;
      return [name, value === undefined ? undefined : { value: String(value), from }];
    }),
  );
}

/** The ends of the key, enough to tell keys apart. */
function masked(key: string): string {
  return key.length < 16 ? "*".repeat(8) : `${key.slice(0, 4)}...${key.slice(-4)}`;
}
