import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { builderId } from "#lifecycle/builder.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { newSessionId, resultOf, hasEnded } from "#execs/run-command.ts";
import { titleOf as titleOfImageStep } from "#images/build-image.ts";
import { captureBuild, inHiddenSandbox, runBuildCommand } from "#images/builder.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { requireImage, type CreateSandbox } from "#sandboxes/create-sandbox.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { findReadyBuild, discardBuilds } from "./find-template.ts";
import { commandIn, keepSurroundings, runTemplateStep, type Surroundings } from "./run-template-steps.ts";
import type { TemplateContext } from "./template-context.ts";
import { defaultTag, type Template, type TemplateBuild, type TemplateDefinition } from "./template.ts";

/** The time limit of one step. Steps install compilers and download models. */
const stepTimeoutMs = 30 * 60_000;

/** How long the ready command may fail before the build does. */
const readyWithinMs = 10 * 60_000;
const readyIntervalMs = 500;

/** A start command without a ready command has this long to become ready. */
const settleMs = 20_000;

/** Lines of a failed start command's output that its failure carries. */
const keptOutput = 2000;

export interface RegisterTemplate {
  readonly organizationId: string;
  readonly name: string;
  /** Given to the build when it is ready. Empty: `default`. */
  readonly tags: readonly string[];
  readonly vcpus?: number | undefined;
  readonly memoryMib?: number | undefined;
}

const namePattern = /^[a-z0-9][a-z0-9_-]{0,127}$/;
const tagPattern = /^[A-Za-z0-9_.-]{1,128}$/;

/** Adds a build to the template of that name, which is new if no other build has made it. The build is `waiting`. */
export async function registerTemplate(
  { images: { sandboxes }, templates }: TemplateContext,
  { organizationId, name, tags, vcpus, memoryMib }: RegisterTemplate,
): Promise<{ readonly template: Template; readonly build: TemplateBuild }> {
  if (!namePattern.test(name)) {
    const message = `the template's name '${name}' must be 1 to 128 lower-case letters, digits, - and _, and begin with a letter or digit`;
    throw new SandboxError("invalid_argument", message);
  }
  requireTags(tags);
  const createdAt = new Date(sandboxes.clock.now());
  const id = randomHex(10);
  const template = await templates.provide({ id, organizationId, name, isPublic: false, createdAt });
  const build: TemplateBuild = {
    id: randomUUID(),
    templateId: template.id,
    organizationId,
    status: "waiting",
    tags: tags.length === 0 ? [defaultTag] : [...new Set(tags)],
    vcpus,
    memoryMib,
    workerId: builderId(sandboxes),
    createdAt,
  };
  await templates.addBuild(build);
  return { template, build };
}

/** @throws `invalid_argument` for a text that cannot be a tag */
export function requireTags(tags: readonly string[]): void {
  const wrong = tags.find((tag) => !tagPattern.test(tag));
  if (wrong === undefined) return;
  throw new SandboxError("invalid_argument", `the tag '${wrong}' must be 1 to 128 letters, digits, -, _ and .`);
}

/**
 * Starts a waiting build, which runs on after its caller has left.
 * @returns the result of the build: its row, `ready` or `failed`
 * @throws `wrong_state` when the build was started before; `not_found` for an unknown base
 */
export async function startTemplateBuild(
  context: TemplateContext,
  { template, build }: { readonly template: Template; readonly build: TemplateBuild },
  definition: TemplateDefinition,
): Promise<{ readonly ended: Promise<TemplateBuild> }> {
  const { images, templates, logs } = context;
  const { sandboxes } = images;
  const start = await baseOf(context, build, definition);
  if (!(await templates.start(build.id, { definition, workerId: builderId(sandboxes) }))) {
    throw new SandboxError("already_exists", "the build was started before: register a new one", {
      resource: "template build",
      id: build.id,
    });
  }
  logs.begin(build.id);
  const ended = runBuild(context, { template, build, definition, start }).finally(() => logs.end(build.id));
  sandboxes.operations.background.run("building a template", { template: template.id, build: build.id }, () => ended);
  return { ended };
}

interface Build {
  readonly template: Template;
  readonly build: TemplateBuild;
  readonly definition: TemplateDefinition;
  readonly start: CreateSandbox;
}

/** Failures of the author's steps end in the row; others too, and are thrown besides. */
async function runBuild(context: TemplateContext, work: Build): Promise<TemplateBuild> {
  const { images, templates, logs } = context;
  const { sandboxes, onBuilt } = images;
  const { clock, stores, snapshots, shutdown } = sandboxes;
  const { build, template } = work;
  const log = logs.find(build.id) ?? logs.begin(build.id);
  let step = "base";
  const say = (message: string, level: "info" | "error" = "info"): void =>
    log.add({ timestamp: clock.now(), level, step, message });
  try {
    const checkpoint = await inHiddenSandbox(
      sandboxes,
      { create: work.start, progress: (progress) => say(progress.step) },
      shutdown.ending,
      (sandbox) => buildIn(context, work, sandbox, { say, enter: (next) => (step = next) }, shutdown.ending),
    );
    const isPublic = (await templates.find(template.organizationId, template.id))?.isPublic ?? false;
    if (isPublic) await stores.checkpoints.setPublic(checkpoint.id, true);
    say("the template is ready");
    const finish = { checkpointId: checkpoint.id, log: log.lines, finishedAt: new Date(clock.now()) };
    const replaced = await templates.finish(build, finish);
    if (replaced === undefined) await stores.checkpoints.remove(checkpoint);
    else await discardBuilds(context, replaced);
    await snapshots.removeUnwanted();
    onBuilt();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    say(message, "error");
    const failure = { error: message, failedStep: step, log: log.lines, finishedAt: new Date(clock.now()) };
    await templates.fail(build.id, failure);
  }
  return await templates.getBuild(template.id, build.id);
}

interface BuildTracker {
  readonly say: (message: string) => void;
  readonly enter: (step: string) => void;
}

async function buildIn(
  context: TemplateContext,
  { build, template, definition }: Build,
  sandbox: Sandbox,
  { say, enter }: BuildTracker,
  signal: AbortSignal,
): Promise<Checkpoint> {
  const { sandboxes } = context.images;
  const guest = { sandbox, files: context.files, template: { ...template, templateId: template.id } };
  let surroundings: Surroundings = { envs: {} };
  const take = async (step: TemplateDefinition["steps"][number]): Promise<void> => {
    const until = AbortSignal.any([signal, AbortSignal.timeout(stepTimeoutMs)]);
    try {
      surroundings = await runTemplateStep(sandboxes, guest, { step, surroundings }, say, until);
    } catch (error) {
      signal.throwIfAborted();
      if (until.aborted) {
        const message = `the step took longer than ${stepTimeoutMs / 60_000} minutes`;
        throw new SandboxError("timed_out", message, { cause: error });
      }
      throw error;
    }
  };
  for (const step of definition.preparation) await take(step);
  for (const [index, step] of definition.steps.entries()) {
    enter(`${index + 1}`);
    say(`step ${index + 1} of ${definition.steps.length}: ${titleOf(step)}`);
    await take(step);
  }
  enter("finalize");
  await keepSurroundings(sandboxes, sandbox, surroundings, signal);
  await startProgram(sandboxes, { sandbox, definition, surroundings }, say, signal);
  say("capturing the machine");
  return await captureBuild(sandboxes, sandbox, { name: build.id, kind: "full" });
}

/** Starts the program of a template and returns when it is ready. */
async function startProgram(
  { worker }: SandboxContext,
  {
    sandbox,
    definition: { startCommand, readyCommand },
    surroundings,
  }: { readonly sandbox: Sandbox; readonly definition: TemplateDefinition; readonly surroundings: Surroundings },
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { sessions } = worker.guest(sandbox.id);
  const requireRunning =
    startCommand === undefined ? undefined : await startSession(sessions, { surroundings, startCommand }, say, signal);
  if (readyCommand === undefined) {
    if (requireRunning === undefined) return;
    for (const endMs = performance.now() + settleMs; performance.now() < endMs;) await requireRunning(readyIntervalMs);
    return;
  }
  say(`waiting until this succeeds: ${readyCommand}`);
  const until = AbortSignal.any([signal, AbortSignal.timeout(readyWithinMs)]);
  for (;;) {
    try {
      await runBuildCommand(sessions, commandIn(surroundings, readyCommand), () => {}, until);
      return;
    } catch (error) {
      signal.throwIfAborted();
      const why = error instanceof Error ? error.message : String(error);
      if (until.aborted) {
        const message = `the ready command did not succeed within ${readyWithinMs / 60_000} minutes: ${why}`;
        throw new SandboxError("timed_out", message, { cause: error });
      }
      if (requireRunning === undefined) await sleep(readyIntervalMs, undefined, { signal });
      else await requireRunning(readyIntervalMs);
    }
  }
}

/** @returns a function that waits, and throws once the program has ended with a failure */
async function startSession(
  sessions: ReturnType<SandboxContext["worker"]["guest"]>["sessions"],
  { surroundings, startCommand }: { readonly surroundings: Surroundings; readonly startCommand: string },
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<(milliseconds: number) => Promise<void>> {
  say(`starting: ${startCommand}`);
  const command = commandIn(surroundings, startCommand);
  const { id } = await sessions.create(
    { id: newSessionId(), command, purpose: "exec", keepOutput: false, whenDetached: "keep" },
    signal,
  );
  return async (milliseconds) => {
    const session = await sessions.wait(id, milliseconds, signal);
    if (!hasEnded(session)) return;
    const { exitCode, signal: killedBy } = session.end;
    if (exitCode === 0 && killedBy === 0) return await sleep(milliseconds, undefined, { signal });
    const { stdout, stderr } = await resultOf(sessions, session, signal);
    const output = [stdout, stderr].map((part) => (part instanceof Uint8Array ? Buffer.from(part).toString() : ""));
    const how = killedBy === 0 ? `exit code ${exitCode}` : `signal ${killedBy}`;
    const message = `the start command ended with ${how}\n${output.join("").slice(-keptOutput)}`.trim();
    throw new SandboxError("invalid_argument", message);
  };
}

/** The create of the machine in which a template is built. */
async function baseOf(
  context: TemplateContext,
  { organizationId, vcpus, memoryMib }: TemplateBuild,
  { base }: TemplateDefinition,
): Promise<CreateSandbox> {
  const { sandboxes } = context.images;
  const shape = {
    ...(vcpus === undefined ? {} : { vcpus }),
    ...(memoryMib === undefined ? {} : { memoryMib }),
    ...{ envs: {}, metadata: {}, alias: "", networkEnabled: true },
  };
  if (base.kind === "image") {
    requireImage(sandboxes, base.image);
    return { organizationId, sandbox: { ...shape, image: base.image } };
  }
  const { checkpoint } = await findReadyBuild(context, organizationId, base.template);
  const { image, workspaceMib } = checkpoint;
  const own = { vcpus: checkpoint.vcpus, memoryMib: checkpoint.memoryMib, workspaceMib };
  return { organizationId, checkpoint, sandbox: { ...own, ...shape, image } };
}

function titleOf(step: TemplateDefinition["steps"][number]): string {
  switch (step.type) {
    case "command":
      return `run ${step.command.slice(0, 200)}`;
    case "user":
      return `user ${step.name}`;
    case "copy":
      return `copy ${step.source} ${step.destination}`;
    case "workdir":
      return `workdir ${step.args.path}`;
    case "run":
    case "env":
    case "apt_install":
    case "pip_install":
    case "add_file":
    case "add_dir":
      return titleOfImageStep(step);
  }
}
