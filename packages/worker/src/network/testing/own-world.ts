import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { NetworkPool, type NetworkPoolOptions } from "../network-pool.ts";
import type { SandboxNetwork } from "../sandbox-network.ts";
import { guestMac } from "./frames.ts";
import { type Internet, startInternet } from "./internet.ts";
import { plugGuest, type PluggedGuest } from "./plugged-guest.ts";

/** An internet, and a pool of networks on a host that is connected to it. Only within `inOwnHost`. */
export interface OwnWorld extends AsyncDisposable {
  readonly internet: Internet;
  readonly pool: NetworkPool;
  /** Plays the directory of a machine. */
  readonly directory: string;
  readonly logged: string[];
  /** A network with an admitted guest, and without a policy. */
  plug(): Promise<{ readonly network: SandboxNetwork; readonly guest: PluggedGuest }>;
}

export async function startOwnWorld(
  options: Partial<NetworkPoolOptions> & { readonly ports?: readonly number[] } = {},
): Promise<OwnWorld> {
  await using stack = new AsyncDisposableStack();
  const internet = stack.use(await startInternet(options.ports));
  const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
  stack.defer(() => rm(directory, { recursive: true }));
  const logged: string[] = [];
  const log = (...line: unknown[]): void => void logged.push(JSON.stringify(line));
  const pool = stack.use(await NetworkPool.open({ spare: 1, log, ...options }));
  const owned = stack.move();
  return {
    internet,
    pool,
    directory,
    logged,
    async plug() {
      const network = owned.use(await pool.claim(directory));
      network.admit(guestMac);
      return { network, guest: owned.use(await plugGuest(network)) };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Loads rules into a namespace, or into the host's network. */
export async function nft(rules: string, namespace?: string): Promise<void> {
  await runCommand("load rules", ["nft", "-f", "-"], {
    input: rules,
    ...(namespace === undefined ? {} : { namespace }),
  });
}

const masquerade = "table ip off { chain out { type nat hook postrouting priority srcnat; masquerade; }; }";

/** Removes the rules of a namespace, except for masquerading. */
export async function switchNamespaceRulesOff({
  attachment,
}: {
  readonly attachment: { readonly namespace: string };
}): Promise<void> {
  await nft(`flush ruleset\n${masquerade}`, attachment.namespace);
}

/** Removes the host's rules, except for masquerading. The empty table stays, so that the watch does not restore it. */
export async function switchHostRulesOff(): Promise<void> {
  await nft(`table inet opensandbox\nflush table inet opensandbox\n${masquerade}`);
}
