import type { ToolDescription } from "../model/message.ts";

export interface Tool extends ToolDescription {
  /** `signal` ends it early. A rejection is told to the model as the tool's failure. */
  run(input: Readonly<Record<string, unknown>>, place: ToolPlace): Promise<ToolResult>;
}

export interface ToolPlace {
  /** What paths are relative to. */
  readonly cwd: string;
  readonly signal: AbortSignal;
}

export interface ToolResult {
  readonly text: string;
  readonly isError: boolean;
}

/** @throws when it is not there */
export function textInput(input: Readonly<Record<string, unknown>>, name: string): string {
  const value = input[name];
  if (typeof value !== "string") throw new Error(`${name} must be a text`);
  return value;
}

export function numberInput(input: Readonly<Record<string, unknown>>, name: string): number | undefined {
  const value = input[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "number" || !(value >= 0)) throw new Error(`${name} must be a number that is not below 0`);
  return value;
}
