import type { ToolDescription } from "../model/message.ts";

export interface Tool extends ToolDescription {
  /** Runs the tool until `place.signal` aborts it. The model sees a rejection as the tool's failure. */
  run(input: Readonly<Record<string, unknown>>, place: ToolPlace): Promise<ToolResult>;
}

export interface ToolPlace {
  /** The directory that relative paths start from. */
  readonly cwd: string;
  readonly signal: AbortSignal;
}

export interface ToolResult {
  readonly text: string;
  readonly isError: boolean;
}

/** @throws when the input has no such string */
export function textInput(input: Readonly<Record<string, unknown>>, name: string): string {
  const value = input[name];
  if (typeof value !== "string") throw new Error(`${name} must be a string`);
  return value;
}

export function numberInput(input: Readonly<Record<string, unknown>>, name: string): number | undefined {
  const value = input[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "number" || !(value >= 0)) throw new Error(`${name} must be a number of at least 0`);
  return value;
}
