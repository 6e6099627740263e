import type { CreateSandbox } from "@opensandbox/sdk";
import { pairs, text, whole } from "../inputs.ts";

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
