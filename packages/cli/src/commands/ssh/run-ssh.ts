import { spawn } from "node:child_process";
import { once } from "node:events";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Host } from "../../context.ts";

/** Connects this terminal to the program ssh, and returns its exit code. @throws `unavailable` without the program */
export async function runSsh(args: readonly string[], env: Host["env"], host: Host): Promise<number> {
  // The terminal also sends Ctrl-C to ssh, which decides what to do.
  using _ = host.interrupts.take(() => undefined);
  const child = spawn("ssh", args, { env: { ...env }, stdio: ["inherit", "pipe", "inherit"] });
  child.stdout.on("data", (chunk: Buffer) => host.stdout.write(chunk));
  const failed = new Promise<never>((_resolve, reject) => {
    child.once("error", (cause) =>
      reject(new SandboxError("unavailable", `cannot run ssh: ${cause.message}`, { cause })),
    );
  });
  const [code] = (await Promise.race([once(child, "close"), failed])) as [number | null];
  return code ?? 1;
}
