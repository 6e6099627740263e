import type { TemplateRecipe } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { flag, list, text, whole } from "#arguments/inputs.ts";
import { visibleText } from "#output/visible-text.ts";

/** What a template's machine has and runs, for `create` and `build`. */
export const buildOptions = {
  start: text("COMMAND", "a program that runs in every sandbox of the template"),
  ready: text("COMMAND", "repeated until it succeeds, before the machine is captured"),
  tag: list("tags that name this build (default: default)"),
  cpus: whole("N", "virtual processors (default: 1)"),
  memory: whole("MB", "memory, a multiple of 128 (default: 1024)"),
  public: flag("let every organization use the template, by its id"),
};

interface BuildInput {
  readonly start: string | undefined;
  readonly ready: string | undefined;
  readonly tag: readonly string[] | undefined;
  readonly cpus: number | undefined;
  readonly memory: number | undefined;
  readonly public: boolean;
}

/** The inputs that were given. The server has defaults for the others. */
export function recipeOf({ start, ready, tag, cpus, memory, public: isPublic }: BuildInput): TemplateRecipe {
  return {
    ...(start === undefined ? {} : { startCommand: start }),
    ...(ready === undefined ? {} : { readyCommand: ready }),
    ...(tag === undefined ? {} : { tags: tag }),
    ...(cpus === undefined ? {} : { vcpus: cpus }),
    ...(memory === undefined ? {} : { memoryMib: memory }),
    ...(isPublic ? { public: true } : {}),
  };
}

/** Builds a template, with the build's log on standard error. */
export async function buildTemplate(
  { name, recipe }: { readonly name: string; readonly recipe: TemplateRecipe },
  { client, host, print, progress, signal }: Context,
): Promise<void> {
  using shown = progress();
  shown.report(`building template ${name}`);
  const { templates } = await client();
  const onLog = (line: string): void => {
    shown.pause();
    host.stderr.write(`${visibleText(line)}\n`);
  };
  const built = await templates.build(name, recipe, { onLog }, signal);
  shown.pause();
  await print(`built template ${name}: ${built.id}`, built);
}
