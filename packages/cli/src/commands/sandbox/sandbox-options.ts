import type { CreateSandbox, Egress, SandboxInfo } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { flag, list, pairs, text, whole } from "#arguments/inputs.ts";

/** Image, size and environment of a new sandbox, for `run` and `create`. */
export const sandboxOptions = {
  image: text("NAME", "the image to start from (default: default)"),
  memory: whole("MB", "memory, a multiple of 128 (default: 1024)"),
  cpus: whole("N", "virtual processors (default: 1)"),
  disk: whole("MB", "size of /workspace, at least 20480 (default: 20480)"),
  env: pairs("set an environment variable for every command", "e"),
};

interface SandboxInput {
  readonly image: string | undefined;
  readonly memory: number | undefined;
  readonly cpus: number | undefined;
  readonly disk: number | undefined;
  readonly env: Readonly<Record<string, string>>;
}

/** The inputs that were given. The server has defaults for the others. */
export function newSandboxOf({ image, memory, cpus, disk, env }: SandboxInput): CreateSandbox {
  return {
    ...(image === undefined ? {} : { image }),
    ...(memory === undefined ? {} : { memoryMib: memory }),
    ...(cpus === undefined ? {} : { vcpus: cpus }),
    ...(disk === undefined ? {} : { diskMib: disk }),
    envs: env,
  };
}

/** Network policy and published port of a new sandbox, for `create` and `fork`. */
export const networkOptions = {
  noNetwork: flag("without network"),
  allow: list("the only permitted destinations, as for 'network set'"),
  deny: list("forbidden destinations; overrides --allow"),
  port: whole("PORT", "a port of the sandbox to publish on a port of the server"),
  previewToken: text("TOKEN", "the token that previews require; auto: generate and print one"),
  secretStore: text("NAME", "a secret store, whose secrets the sandbox uses without seeing them"),
};

interface NetworkInput extends EgressInput {
  readonly noNetwork: boolean;
  readonly port: number | undefined;
  readonly previewToken: string | undefined;
  readonly secretStore: string | undefined;
}

export interface EgressInput {
  readonly allow: readonly string[] | undefined;
  readonly deny: readonly string[] | undefined;
}

/** The network inputs that were given. */
export function networkOf({ noNetwork, port, previewToken, secretStore, ...rules }: NetworkInput) {
  const egress = egressOf(rules);
  return {
    ...(noNetwork ? { networkEnabled: false } : {}),
    ...(Object.keys(egress).length === 0 ? {} : { egress }),
    ...(port === undefined ? {} : { port }),
    ...(previewToken === undefined ? {} : { previewToken }),
    ...(secretStore === undefined ? {} : { secretStore }),
  };
}

export function egressOf({ allow, deny }: EgressInput): Egress {
  return { ...(allow === undefined ? {} : { allow }), ...(deny === undefined ? {} : { deny }) };
}

/** Prints the id of a new sandbox, and the port and token that only this reply contains. */
export async function printNew(sandbox: SandboxInfo, asked: { readonly port: number | undefined }, context: Context) {
  const { id, hostPort, previewToken } = sandbox;
  if (!context.globals.json) {
    if (hostPort !== undefined)
      context.note(`port ${hostPort} of the server forwards to port ${asked.port} of the sandbox`);
    if (previewToken !== undefined) context.note(`previews of the sandbox require the token ${previewToken}`);
  }
  await context.print(id, sandbox);
}
