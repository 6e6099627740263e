import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The steps at which a test can make an operation fail, in their order. Each is reached just before the step. */
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
  /** Steps of a start whose shape differs from its template's. */
  reshape: ["offer memory", "enlarge workspace", "reshape guest"],
  capture: [
    "make layers",
    "open layers",
    "freeze",
    "pause",
    "switch layers",
    "copy memory",
    "save devices",
    "resume after capture",
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
  collect: ["remove item", "empty removed directory", "move machine aside"],
  adopt: ["adopt machine", "resume after adoption", "journal adoption"],
} as const;

export type FailpointLabel = (typeof failpointLabels)[keyof typeof failpointLabels][number];

const armed = new Map<FailpointLabel, () => unknown>();

/** Does nothing unless a test has armed `label`. */
export async function failpoint(label: FailpointLabel): Promise<void> {
  await armed.get(label)?.();
}

/** For tests: runs `act` whenever the step is reached, and fails the step with the error that it throws. */
export function armFailpoint(label: FailpointLabel, act: () => unknown = throwing(label)): Disposable {
  armed.set(label, act);
  return { [Symbol.dispose]: () => void armed.delete(label) };
}

/** For tests: an act that kills this process at once. */
export async function exitAtOnce(): Promise<never> {
  process.kill(process.pid, "SIGKILL");
  // The signal may arrive a moment later, and nothing must happen before it.
  return await new Promise<never>(() => undefined);
}

/**
 * For tests: arms the failpoints of a text such as `publish snapshot=exit; freeze=throw`. `hang` never returns.
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
  if (label === undefined) throw new Error(`unknown failpoint ${JSON.stringify(text)}: see failpointLabels`);
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
      throw new Error(`unknown act ${JSON.stringify(act)} for a failpoint: use throw, hang or exit`);
  }
}

function throwing(label: string): () => never {
  return () => {
    throw new SandboxError("unavailable", `${label}: made to fail`);
  };
}
