import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The steps at which a test can make an operation fail, in the order in which they come. Each is reached just before
 * what it names.
 */
export const failpointLabels = {
  start: [
    "make directory",
    "acquire host resources",
    "fill directory",
    "start process",
    "load memory",
    "restore devices",
    "resume",
    "introduce guest",
    "journal sandbox",
  ],
  capture: [
    "make layers",
    "open layers",
    "freeze",
    "pause",
    "switch layers",
    "copy memory",
    "save devices",
    "go on",
    "thaw",
    "store memory",
    "hash layers",
    "link files",
    "write manifest",
    "publish snapshot",
    "flush published snapshot",
  ],
  afterCapture: ["journal layers"],
  hibernate: ["end machine", "remove directory", "remove journal entry"],
  ready: ["machine is ready"],
  adopt: ["adopt machine", "go on after adoption", "journal adoption"],
} as const;

export type FailpointLabel = (typeof failpointLabels)[keyof typeof failpointLabels][number];

const armed = new Map<FailpointLabel, () => unknown>();

/** Does nothing, unless a test has armed `label`. */
export async function failpoint(label: FailpointLabel): Promise<void> {
  await armed.get(label)?.();
}

/**
 * For tests: from now on `act` comes whenever the step is reached; what it throws is how the step fails. Disposing it
 * ends that.
 */
export function armFailpoint(label: FailpointLabel, act: () => unknown = throwing(label)): Disposable {
  armed.set(label, act);
  return { [Symbol.dispose]: () => void armed.delete(label) };
}

/** For tests: an act that ends this process as a power cut would. */
export async function exitAtOnce(): Promise<never> {
  process.kill(process.pid, "SIGKILL");
  // The signal may come a moment later, and nothing must happen until then.
  return await new Promise<never>(() => undefined);
}

/**
 * For tests: arms what a text such as `publish snapshot=exit; freeze=throw` says; `hang` never comes back.
 * @throws for a label or an act that does not exist
 */
export function armFailpoints(text: string): void {
  for (const part of text.split(";").filter((part) => part.trim() !== "")) {
    const [label = "", act = ""] = part.split("=").map((word) => word.trim());
    armFailpoint(labelOf(label), actOf(act, label));
  }
}

function labelOf(text: string): FailpointLabel {
  const label = Object.values(failpointLabels)
    .flat()
    .find((known) => known === text);
  if (label === undefined) throw new Error(`there is no failpoint ${JSON.stringify(text)}`);
  return label;
}

function actOf(act: string, label: string): () => unknown {
  switch (act) {
    case "throw":
      return throwing(label);
    case "hang":
      return () => new Promise<never>(() => undefined);
    case "exit":
      return exitAtOnce;
    default:
      throw new Error(`a failpoint can throw, hang or exit, not ${JSON.stringify(act)}`);
  }
}

function throwing(label: string): () => never {
  return () => {
    throw new SandboxError("unavailable", `${label}: made to fail`);
  };
}
