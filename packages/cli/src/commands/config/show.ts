import { defineCommand } from "../../command.ts";
import type { Host } from "../../context.ts";
import { findServerAddress, type Setting } from "../../server/find-server-address.ts";
import { table } from "#output/table.ts";

export const show = defineCommand({
  summary: "Show each setting and where it comes from",
  description: "The key is shown in part.",
  examples: [{ line: "config", shows: "the effective configuration" }],
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

/** What a server on this host would be started with. */
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

/** Enough to tell keys apart. */
function masked(key: string): string {
  return key.length < 16 ? "*".repeat(8) : `${key.slice(0, 4)}...${key.slice(-4)}`;
}
