import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Argument, Option } from "./option.ts";

// The kinds of options and arguments.

export function flag(help: string, short?: string): Option<boolean> {
  return { help, ...shortOf(short), read: (values) => values.length > 0 };
}

/** When given several times, the last value counts. */
export function text(placeholder: string, help: string, short?: string): Option<string | undefined> {
  return { help, placeholder, ...shortOf(short), read: (values) => values.at(-1) };
}

/** An input that may be repeated, in order. */
export function texts(placeholder: string, help: string): Option<readonly string[]> {
  return { help: `${help}; may be repeated`, placeholder, read: (values) => values };
}

export function whole(placeholder: string, help: string): Option<number | undefined> {
  return {
    help,
    placeholder,
    read(values, name) {
      const value = values.at(-1);
      return value === undefined ? undefined : wholeNumber(value, name);
    },
  };
}

/** An input that must be one of these words, which the help lists. */
export function choice<const Word extends string>(help: string, words: readonly Word[]): Option<Word | undefined> {
  return {
    help: `${help}: ${words.join(", ")}`,
    placeholder: "WORD",
    read(values, name) {
      const value = values.at(-1);
      const word = words.find((known) => known === value);
      if (value !== undefined && word === undefined) throw invalid(`${name} takes one of ${words.join(", ")}`);
      return word;
    },
  };
}

/** A comma-separated list. An empty value is an empty list. */
export function list(help: string): Option<readonly string[] | undefined> {
  return {
    help,
    placeholder: "LIST",
    read: (values) =>
      values
        .at(-1)
        ?.split(",")
        .map((entry) => entry.trim())
        .filter((entry) => entry !== ""),
  };
}

/** An input of the form `NAME=VALUE`, which may be repeated. */
export function pairs(help: string, short?: string): Option<Readonly<Record<string, string>>> {
  return {
    help: `${help}; may be repeated`,
    placeholder: "NAME=VALUE",
    ...shortOf(short),
    read: (values, name) =>
      Object.fromEntries(
        values.map((pair) => {
          const at = pair.indexOf("=");
          if (at < 1) throw invalid(`${name} takes NAME=VALUE, not "${pair}"`);
          return [pair.slice(0, at), pair.slice(at + 1)];
        }),
      ),
  };
}

export function one(placeholder: string): Argument<string> {
  return { placeholder, takes: "one", read: ([value = ""]) => value };
}

export function optional(placeholder: string): Argument<string | undefined> {
  return { placeholder, takes: "at most one", read: ([value]) => value };
}

export function some(placeholder: string): Argument<readonly string[]> {
  return { placeholder, takes: "some", read: (values) => values };
}

export function wholeArgument(placeholder: string): Argument<number> {
  return { placeholder, takes: "one", read: ([value = ""]) => wholeNumber(value, placeholder) };
}

/** A program and its arguments: every word that follows, including options. */
export function command(placeholder: string): Argument<readonly [string, ...string[]]> {
  return { placeholder, takes: "command", read: ([program = "", ...rest]) => [program, ...rest] };
}

function wholeNumber(value: string, name: string): number {
  if (!/^\d{1,15}$/.test(value)) throw invalid(`${name} takes a whole number, not "${value}"`);
  return Number(value);
}

function shortOf(short: string | undefined): { short?: string } {
  return short === undefined ? {} : { short };
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid_argument", message);
}
