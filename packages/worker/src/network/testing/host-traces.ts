import { existsSync, readdirSync, readFileSync } from "node:fs";
import { runCommand } from "#host/run-command.ts";

/** Traces of networks on a host, for comparison: namespaces, cables, slots and their owners, tables, rules. */
export async function hostTraces(): Promise<Readonly<Record<string, readonly string[]>>> {
  return {
    namespaces: entries("/run/netns"),
    links: readFileSync("/proc/net/dev", "utf8")
      .split("\n")
      .slice(2)
      .map((line) => line.split(":")[0]!.trim())
      .filter((name) => name !== "")
      .toSorted(),
    slots: entries("/run/opensandbox/slots"),
    owners: entries("/run/opensandbox/owners").filter((name) => name !== "lock"),
    rules: (await runCommand("list rules", ["nft", "list", "ruleset"])).split("\n"),
  };
}

function entries(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory).toSorted() : [];
}
