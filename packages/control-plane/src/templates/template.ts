import type { ImageStep } from "@opensandbox/wire/public/images.ts";

/** A machine that is ready for use under a name, with a program that runs in it if its author wants one. */
export interface Template {
  /** 20 lower-case letters and digits. */
  readonly id: string;
  readonly organizationId: string;
  /** Unique in its organization. */
  readonly name: string;
  /** Every organization may create sandboxes from it, by its id. */
  readonly isPublic: boolean;
  readonly createdAt: Date;
}

/** One attempt to build a template. A tag of the template names one build that is ready. */
export interface TemplateBuild {
  /** A UUID. */
  readonly id: string;
  readonly templateId: string;
  readonly organizationId: string;
  /** `waiting`: its definition is not known yet. */
  readonly status: "waiting" | "building" | "ready" | "failed";
  /** The tags that it gets when it is ready. */
  readonly tags: readonly string[];
  readonly vcpus?: number | undefined;
  readonly memoryMib?: number | undefined;
  /** Absent while it is `waiting`. */
  readonly definition?: TemplateDefinition | undefined;
  /** Absent until it is ready. */
  readonly checkpointId?: string | undefined;
  /** The worker that builds it while it is `building`. */
  readonly workerId: string;
  readonly createdAt: Date;
  readonly finishedAt?: Date | undefined;
  readonly error?: string | undefined;
  /** What failed: `base`, the number of a step, which starts at 1, or `finalize`. */
  readonly failedStep?: string | undefined;
}

/** How a template is built. */
export interface TemplateDefinition {
  readonly base: TemplateBase;
  /** Steps that the interface adds before those of the author. They have no number. */
  readonly preparation: readonly TemplateStep[];
  readonly steps: readonly TemplateStep[];
  /** A program that runs when the machine is captured, and so in every sandbox of the template. */
  readonly startCommand?: string | undefined;
  /** Repeated until it succeeds; then the machine is captured. */
  readonly readyCommand?: string | undefined;
}

export type TemplateBase =
  | { readonly kind: "image"; readonly image: string }
  | { readonly kind: "template"; readonly template: string };

export type TemplateStep =
  | ImageStep
  | { readonly type: "command"; readonly command: string; readonly user?: string | undefined }
  | { readonly type: "user"; readonly name: string }
  | CopyStep;

/** Copies uploaded files as a Dockerfile's COPY does. */
export interface CopyStep {
  readonly type: "copy";
  /** The name under which the archive was uploaded. */
  readonly filesHash: string;
  /** A path or a pattern, relative to the root of the archive. */
  readonly source: string;
  /** A relative path starts at the working directory. */
  readonly destination: string;
  /** The owner of the copies. Absent: the user of the steps. */
  readonly user?: string | undefined;
  /** Octal. Absent: as in the archive. */
  readonly mode?: string | undefined;
}

/** A line of the log of a build. */
export interface TemplateLog {
  readonly timestamp: number;
  readonly level: "info" | "error";
  readonly step: string;
  readonly message: string;
}

/** The tag of a name that has none. */
export const defaultTag = "default";

/** Splits `name:tag`. */
export function splitTag(reference: string): { readonly name: string; readonly tag: string } {
  const colon = reference.lastIndexOf(":");
  if (colon < 0) return { name: reference, tag: defaultTag };
  return { name: reference.slice(0, colon), tag: reference.slice(colon + 1) };
}
