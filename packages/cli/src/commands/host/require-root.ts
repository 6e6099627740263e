import { SandboxError } from "@opensandbox/wire/errors.ts";

/** @throws `permission_denied` with the line to type, unless root runs this process */
export function requireRoot(program: string, command: string): void {
  if (process.getuid?.() === 0) return;
  throw new SandboxError("permission_denied", `only root can change this host: sudo ${program} ${command}`);
}
