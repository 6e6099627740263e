import { existsSync, readFileSync } from "node:fs";
import { runCommand } from "#host/run-command.ts";
import { nftFromInput } from "./nft.ts";
import { cablePrefix } from "./address-plan.ts";
import { table } from "./namespace-rules.ts";

/*
 * Docker, ufw and many hand-written firewalls drop forwarded packets that they do not expect, and no other table can
 * accept a packet that one table has dropped. So a chain whose policy is to drop gets two rules of ours at its end. The
 * administrator's rules come before them, and packets that must not pass were dropped by our own table.
 */

/** The comment that identifies our rules in other firewalls' chains. */
const mark = "opensandbox";

interface Chain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
}

/** Lets guests' packets through chains of other firewalls that would drop them. Idempotent. */
export async function admitForwarding(): Promise<void> {
  for (const chain of await droppingChains()) {
    if ((await ourRules(chain)).length > 0) continue;
    await runCommand("admit forwarding", nftFromInput, {
      input: directions.map((device) => `add rule ${ruleOf(chain, device)}`).join("\n"),
    });
  }
  const iptables = legacyIptables();
  if (iptables === undefined || !(await legacyPolicyDrops(iptables))) return;
  for (const rule of legacyRules) {
    if (!(await succeeds([iptables, "-w", "-C", ...rule]))) {
      await runCommand("admit forwarding", [iptables, "-w", "-A", ...rule]);
    }
  }
}

/** Removes our rules from other firewalls' chains. */
export async function withdrawForwarding(): Promise<void> {
  for (const chain of await forwardChains()) {
    const handles = await ourRules(chain);
    if (handles.length === 0) continue;
    const { family, table, name } = chain;
    await runCommand("withdraw forwarding", nftFromInput, {
      input: handles.map((handle) => `delete rule ${family} ${table} ${name} handle ${handle}`).join("\n"),
    });
  }
  const iptables = legacyIptables();
  if (iptables === undefined) return;
  for (const rule of legacyRules) {
    while (await succeeds([iptables, "-w", "-C", ...rule])) {
      await runCommand("withdraw forwarding", [iptables, "-w", "-D", ...rule]);
    }
  }
}

// The second rule need not check for replies: our own table drops other packets to a guest. Both rules are ones that
// iptables can read, because it refuses a whole table with one that it cannot.
const directions = [`iifname "${cablePrefix}*"`, `oifname "${cablePrefix}*"`];

function ruleOf({ family, table, name }: Chain, device: string): string {
  return `${family} ${table} ${name} ${device} counter accept comment "${mark}"`;
}

interface ListedChain extends Chain {
  readonly hook?: string;
  readonly policy?: string;
}

async function droppingChains(): Promise<readonly Chain[]> {
  return (await forwardChains()).filter(({ policy }) => policy === "drop");
}

async function forwardChains(): Promise<readonly ListedChain[]> {
  const listed = await runCommand("list firewall chains", ["nft", "-j", "list", "chains"]);
  const { nftables } = JSON.parse(listed) as { nftables: readonly { readonly chain?: ListedChain }[] };
  return nftables
    .flatMap(({ chain }) => (chain === undefined ? [] : [chain]))
    .filter(({ family, hook }) => hook === "forward" && (family === "ip" || family === "inet"))
    .filter((chain) => chain.table !== table);
}

/** Handles of our rules in a chain. */
async function ourRules({ family, table, name }: Chain): Promise<readonly number[]> {
  const listed = await runCommand("list firewall rules", ["nft", "-j", "-a", "list", "chain", family, table, name]);
  const { nftables } = JSON.parse(listed) as {
    nftables: readonly { readonly rule?: { readonly comment?: string; readonly handle: number } }[];
  };
  return nftables.flatMap(({ rule }) => (rule?.comment === mark ? [rule.handle] : []));
}

const legacyRules = (["-i", "-o"] as const).map((direction) => [
  ...["FORWARD", direction, `${cablePrefix}+`],
  ...["-m", "comment", "--comment", mark, "-j", "ACCEPT"],
]);

/** The legacy iptables program, where its rules are in use: listing them would create the tables. */
function legacyIptables(): string | undefined {
  let tables: string;
  try {
    tables = readFileSync("/proc/net/ip_tables_names", "utf8");
  } catch {
    return undefined;
  }
  if (!tables.split("\n").includes("filter")) return undefined;
  return ["/usr/sbin/iptables-legacy", "/sbin/iptables-legacy"].find((file) => existsSync(file));
}

async function legacyPolicyDrops(iptables: string): Promise<boolean> {
  const rules = await runCommand("list legacy firewall", [iptables, "-w", "-S", "FORWARD"]);
  return rules.includes("-P FORWARD DROP");
}

async function succeeds(argv: readonly [string, ...string[]]): Promise<boolean> {
  try {
    await runCommand("look for a legacy rule", argv);
    return true;
  } catch {
    return false;
  }
}
