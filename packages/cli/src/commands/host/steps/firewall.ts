import { z } from "zod";
import type { Role } from "../options.ts";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";
import { firewallUnit, firewallUnitName } from "../units.ts";

export const rulesFile = "/etc/opensandbox/firewall.nft";
const unitFile = `/etc/systemd/system/${firewallUnitName}`;

const schema = z.object({ rules: ownedFile, unit: ownedFile });

/**
 * Refuses connections to this host, except to ssh and to the server. The table is its own, so the worker's tables and
 * those of other programs stay.
 */
export function firewall(settings: Readonly<Record<string, string>>, role: Role): Step {
  return defineStep({
    name: "firewall",
    schema,
    async check(system) {
      if ((await system.read(rulesFile)) !== (await rulesFor(system, settings, role))) {
        return { detail: `${rulesFile} does not allow exactly ssh and the server` };
      }
      if ((await system.read(unitFile)) !== firewallUnit(rulesFile))
        return { detail: `${unitFile} differs from this version's` };
      const { code } = await system.ask("systemctl", "is-active", firewallUnitName);
      return code === 0 ? undefined : { detail: `${firewallUnitName} is not active` };
    },
    async apply(system, { before, remember }) {
      const rules = await rulesFor(system, settings, role);
      const unit = firewallUnit(rulesFile);
      await remember({
        rules: await claim(system, rulesFile, rules, before?.rules),
        unit: await claim(system, unitFile, unit, before?.unit),
      });
      await system.write(rulesFile, rules);
      // A rule that nft rejects must not reach the unit.
      await system.change("nft", "--check", "--file", rulesFile);
      await system.write(unitFile, unit);
      await system.change("systemctl", "daemon-reload");
      await system.change("systemctl", "enable", firewallUnitName);
      await system.change("systemctl", "restart", firewallUnitName);
      return `allowed incoming connections to ${(await openPorts(system, settings, role)).join(", ")} only`;
    },
    async undo(system, { rules, unit }) {
      if ((await system.read(unitFile)) !== undefined) {
        await system.change("systemctl", "disable", "--now", firewallUnitName);
      }
      const done = [await release(system, unit), await release(system, rules)];
      await system.change("systemctl", "daemon-reload");
      return done.join("; ");
    },
  });
}

async function rulesFor(system: System, settings: Readonly<Record<string, string>>, role: Role): Promise<string> {
  const ports = await openPorts(system, settings, role);
  return `# Firewall of OpenSandbox; 'osb host remove' deletes this file.
table inet opensandbox_host
delete table inet opensandbox_host
table inet opensandbox_host {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    ct state invalid drop
    meta l4proto { icmp, ipv6-icmp } accept
    udp dport 68 accept comment "DHCP"
    udp dport 546 accept comment "DHCPv6"
    tcp dport { ${ports.join(", ")} } accept
  }
}
`;
}

/** The ports of ssh as configured, 22 in any case, that of a fleet, and the server's unless it listens on this host alone. */
async function openPorts(system: System, settings: Readonly<Record<string, string>>, role: Role): Promise<number[]> {
  const { code, stdout } = await system.ask("sshd", "-T");
  const configured = code === 0 ? [...stdout.matchAll(/^port (\d+)$/gm)].map(([, port]) => Number(port)) : [];
  const host = settings["OPENSANDBOX_HOST"] ?? "127.0.0.1";
  const local = host === "localhost" || host === "::1" || host.startsWith("127.");
  const server = local || role === "worker" ? [] : [Number(settings["OPENSANDBOX_PORT"] ?? 8080)];
  const fleet = role === "combined" ? [] : [Number(settings["OPENSANDBOX_FLEET_PORT"] ?? 8443)];
  return [...new Set([22, ...configured, ...server, ...fleet])].toSorted((a, b) => a - b);
}
