import type { CreateSandbox, Egress, SandboxInfo } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { flag, list, pairs, text, whole } from "#arguments/inputs.ts";

/** What a new sandbox is made of: the options that `run` and `create` share. */
export const sandboxOptions = {
  image: text("NAME", "the image to start from (default: default)"),
  memory: whole("MB", "memory, a multiple of 128 (default: 1024)"),
  cpus: whole("N", "virtual processors (default: 1)"),
  disk: whole("MB", "size of /workspace, at least 20480 (default: 20480)"),
  env: pairs("an environment variable of every command in the sandbox", "e"),
};

interface SandboxInput {
  readonly image: string | undefined;
  readonly memory: number | undefined;
  readonly cpus: number | undefined;
  readonly disk: number | undefined;
  readonly env: Readonly<Record<string, string>>;
}

/** What was asked for; the rest is the server's default. */
export function newSandboxOf({ image, memory, cpus, disk, env }: SandboxInput): CreateSandbox {
  return {
    ...(image === undefined ? {} : { image }),
    ...(memory === undefined ? {} : { memoryMib: memory }),
    ...(cpus === undefined ? {} : { vcpus: cpus }),
    ...(disk === undefined ? {} : { diskMib: disk }),
    envs: env,
  };
}

/** What a new sandbox may reach, and by what it is reached: the options that `create` and `fork` share. */
export const reachOptions = {
  noNetwork: flag("without any network"),
  allow: list("all that it may reach, as for 'network set'"),
  deny: list("what it may not reach although it is allowed"),
  port: whole("PORT", "a port of it that a port of the server is to lead to"),
  previewToken: text("TOKEN", "what its previews need; auto: a new one, which is printed"),
};

interface ReachInput extends EgressInput {
  readonly noNetwork: boolean;
  readonly port: number | undefined;
  readonly previewToken: string | undefined;
}

export interface EgressInput {
  readonly allow: readonly string[] | undefined;
  readonly deny: readonly string[] | undefined;
}

/** What was asked for. */
export function reachOf({ noNetwork, port, previewToken, ...rules }: ReachInput) {
  const egress = egressOf(rules);
  return {
    ...(noNetwork ? { networkEnabled: false } : {}),
    ...(Object.keys(egress).length === 0 ? {} : { egress }),
    ...(port === undefined ? {} : { port }),
    ...(previewToken === undefined ? {} : { previewToken }),
  };
}

export function egressOf({ allow, deny }: EgressInput): Egress {
  return { ...(allow === undefined ? {} : { allow }), ...(deny === undefined ? {} : { deny }) };
}

/** The id, and what else only this answer tells. */
export async function printNew(sandbox: SandboxInfo, asked: { readonly port: number | undefined }, context: Context) {
  const { id, hostPort, previewToken } = sandbox;
  if (!context.globals.json) {
    if (hostPort !== undefined) context.note(`port ${hostPort} of the server leads to its port ${asked.port}`);
    if (previewToken !== undefined) context.note(`its previews need the token ${previewToken}`);
  }
  await context.print(id, sandbox);
}
