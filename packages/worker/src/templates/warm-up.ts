import type { Log } from "#host/log.ts";
import type { GuestClient } from "#guest/guest-client.ts";
import { guestFiles } from "#guest/guest-files.ts";
import { guestSessions } from "#guest/guest-sessions.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { ExecEnd } from "@opensandbox/wire/worker/sessions.ts";

const timeoutMs = 60_000;

/** Raise it when the warm-up changes: templates of the earlier version are made again. */
export const warmUpVersion = 4;

interface WarmUp {
  readonly argv: readonly [string, ...string[]];
  /** The command is in every image, and a template in which it fails is of no use. */
  readonly required?: true;
}

/**
 * Commands that callers are likely to run first, for a guest that has just booted. The files that they read stay in its
 * page cache, which all sandboxes of the template share, and the agent's code for a first caller is compiled once instead
 * of in each copy. An image without a command skips it.
 */
export const templateWarmUps: readonly WarmUp[] = [
  { argv: ["/bin/sh", "-c", "echo; ls -la / >/dev/null; id >/dev/null"], required: true },
  { argv: ["/bin/sh", "-c", "! command -v sudo >/dev/null || sudo true"] },
  { argv: ["/bin/sh", "-c", "! command -v bash >/dev/null || bash -lc true"] },
  { argv: ["/bin/sh", "-c", "! command -v python3 >/dev/null || python3 -c 'import json, os, subprocess, ssl'"] },
  // `--version` ends before it reads the parts of the program that a script needs.
  { argv: ["/bin/sh", "-c", "! command -v node >/dev/null || { node --version && node -e 'fetch'; } >/dev/null"] },
  {
    argv: [
      "/bin/sh",
      "-c",
      "! command -v git >/dev/null || { at=$(mktemp -d) && git init -q $at && git -C $at status >/dev/null && rm -r $at; }",
    ],
  },
  { argv: ["/bin/sh", "-c", "true"], required: true },
];

/** Bounds the warm-up of a template: after it only required commands run. */
const maxWarmUpMs = 120_000;

/** @throws `unavailable` when a required command fails */
export async function warmUpTemplate(guest: GuestClient, log: Log, signal: AbortSignal): Promise<void> {
  const since = performance.now();
  for (const { argv, required = false } of templateWarmUps) {
    if (!required && performance.now() - since > maxWarmUpMs) continue;
    const failure = await failureOf(guest, argv, signal);
    if (failure === undefined) continue;
    signal.throwIfAborted();
    const command = argv.join(" ");
    if (required) {
      const message = `the warm-up command ${command} failed in the template's guest`;
      throw new SandboxError("unavailable", message, { cause: failure });
    }
    const message = "a warm-up command failed in a template's guest; its first run in each sandbox is slower";
    log("warn", message, { command, ...describeError(failure) });
  }
  await useFilesOnce(guest, signal);
}

async function failureOf(guest: GuestClient, argv: WarmUp["argv"], signal: AbortSignal): Promise<Error | undefined> {
  try {
    const { exitCode, timedOut } = await runOnce(guest, argv, signal);
    if (exitCode === 0 && !timedOut) return undefined;
    return new Error(timedOut ? `it did not end within ${timeoutMs / 1000} s` : `its exit code is ${exitCode}`);
  } catch (error) {
    return error as Error;
  }
}

/** Runs a command to its end, the way a caller's first command runs. */
export async function runOnce(
  guest: GuestClient,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
): Promise<ExecEnd> {
  // A name that is never used again: the agent may remember a session for a moment after its end.
  const id = `warm-up-${randomHex(4)}`;
  const kept = { keepOutput: true, whenDetached: "keep", transient: true } as const;
  const request = { id, command: { argv, timeoutMs }, purpose: "run", ...kept } as const;
  const run = await guestSessions(() => guest).run(request, signal);
  for await (const _ of run.output);
  return (await run.result).end;
}

const scratchFile = "/tmp/opensandbox-warm-up";

/** Runs each file operation once, and removes its traces. */
export async function useFilesOnce(guest: GuestClient, signal: AbortSignal): Promise<void> {
  const files = guestFiles(() => guest);
  await files.write(scratchFile, content(), {}, signal);
  const { content: read } = await files.read(scratchFile, {}, signal);
  for await (const _ of read);
  await files.stat(scratchFile, {}, signal);
  await files.list("/tmp", signal);
  await files.makeDirectory(`${scratchFile}.d`, signal);
  for (const path of [scratchFile, `${scratchFile}.d`]) await files.remove(path, signal);
}

// oxlint-disable-next-line typescript/require-await -- the wire takes content as it comes
async function* content(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(1);
}
