import type { GuestClient } from "#guest/guest-client.ts";
import { guestFiles } from "#guest/guest-files.ts";
import { guestSessions } from "#guest/guest-sessions.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { ExecEnd } from "@opensandbox/wire/worker/sessions.ts";

const timeoutMs = 60_000;

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
