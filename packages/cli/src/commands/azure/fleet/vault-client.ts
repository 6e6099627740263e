import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SecretName } from "./fleet-plan.ts";

export interface VaultOptions {
  /** https://NAME.vault.azure.net */
  readonly url: string;
  readonly token: (signal: AbortSignal) => Promise<string>;
  /** The wait before another attempt. Absent: 10 s. */
  readonly pauseMs?: number;
  readonly timeoutMs?: number;
}

/** The right to read takes minutes to reach a vault, and the set-up of a fleet continues while its hosts boot. */
const defaultTimeoutMs = 30 * 60_000;
const defaultPauseMs = 10_000;

/** Reads a secret, and waits until it is there and this host may read it. @throws `timed_out` */
export async function readSecret(
  { url, token, pauseMs = defaultPauseMs, timeoutMs = defaultTimeoutMs }: VaultOptions,
  name: SecretName,
  signal: AbortSignal,
): Promise<string> {
  for (const deadline = performance.now() + timeoutMs; ;) {
    const problem = await tryRead({ url, token }, name, signal);
    if (typeof problem !== "string") return problem.value;
    if (performance.now() > deadline) {
      const message = `cannot read the secret ${name} of ${url} after ${timeoutMs / 60_000} minutes: ${problem}`;
      throw new SandboxError("timed_out", message);
    }
    await sleep(pauseMs, undefined, { signal });
  }
}

/** Returns the secret, or the reason why it cannot be read yet. */
async function tryRead(
  { url, token }: Pick<VaultOptions, "url" | "token">,
  name: SecretName,
  signal: AbortSignal,
): Promise<{ readonly value: string } | string> {
  try {
    const response = await fetch(`${url}/secrets/${name}?api-version=7.4`, {
      headers: { authorization: `Bearer ${await token(signal)}` },
      signal: AbortSignal.any([signal, AbortSignal.timeout(30_000)]),
    });
    const { value, error } = (await response.json()) as { value?: string; error?: { code?: string } };
    return response.ok && value !== undefined ? { value } : `HTTP ${response.status} ${error?.code ?? ""}`.trim();
  } catch (cause) {
    signal.throwIfAborted();
    return (cause as Error).message;
  }
}
