import { forbiddenRanges } from "@opensandbox/wire/egress.ts";
import { cablePrefix, outerNetwork } from "./address-plan.ts";
import { table } from "./namespace-rules.ts";

/** The only table of this program outside the namespaces. It does not grow with the number of slots. */
export const hostTable = `inet ${table}`;

/**
 * The rules of the host: guests reach the internet, and neither other guests nor the host. Each namespace enforces the
 * same and more; these rules still hold when a namespace was taken over. Loading them replaces an earlier version.
 */
export function hostRules(): string {
  const cable = `"${cablePrefix}*"`;
  return `
table ${hostTable}
delete table ${hostTable}
table ${hostTable} {
  set forbidden { type ipv4_addr; flags interval; elements = { ${forbiddenRanges.join(", ")} }; }
  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    iifname ${cable} meta nfproto != ipv4 drop
    iifname ${cable} fib saddr . iif oif missing drop
    iifname != { "lo", ${cable} } ip saddr ${outerNetwork} drop
  }
  chain forward {
    type filter hook forward priority filter - 1; policy accept;
    iifname ${cable} ip daddr @forbidden goto refuse
    iifname ${cable} oifname ${cable} goto refuse
    iifname ${cable} tcp flags syn tcp option maxseg size set rt mtu
    oifname ${cable} ct state established,related accept
    oifname ${cable} drop
  }
  chain input {
    type filter hook input priority filter - 1; policy accept;
    iifname ${cable} goto refuse
  }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${outerNetwork} oifname != ${cable} masquerade
  }
}
`;
}

/** Removes our table. Adding it first makes the removal of a missing one no error. */
export const noHostRules = `table ${hostTable}\ndelete table ${hostTable}\n`;
