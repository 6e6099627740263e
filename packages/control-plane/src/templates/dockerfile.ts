import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { TemplateDefinition, TemplateStep } from "./template.ts";

/**
 * What a Dockerfile means as a template: its base, its steps, and its command as the program to start. It can copy no
 * files, since it comes without a directory. Pure.
 * @throws `invalid_argument` for a Dockerfile that is wrong, `not_supported` for an instruction that needs more
 */
export function definitionOfDockerfile(text: string): Omit<TemplateDefinition, "preparation"> {
  let image: string | undefined;
  const steps: TemplateStep[] = [];
  const values = new Map<string, string>();
  const starts: { entrypoint?: string; cmd?: string } = {};
  const expand = (word: string): string =>
    word.replaceAll(/\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))/g, (_, braced: string | undefined, or = "", plain = "") => {
      return values.get(braced ?? (plain as string)) ?? (or as string);
    });
  for (const { instruction, rest } of instructionsOf(text)) {
    switch (instruction) {
      case "FROM": {
        if (image !== undefined) throw notSupported("a second FROM");
        image = expand(rest.replace(/^--platform=\S+\s+/, "").replace(/\s+AS\s+\S+$/i, ""));
        break;
      }
      case "RUN":
        steps.push({ type: "command", command: commandOf(rest) });
        break;
      case "ENV": {
        const vars = Object.fromEntries(
          pairsOf(rest).map(({ name, value, literal }) => [name, literal ? value : expand(value)]),
        );
        for (const [name, value] of Object.entries(vars)) values.set(name, value);
        steps.push({ type: "env", args: { vars } });
        break;
      }
      case "ARG": {
        const [name = "", ...value] = rest.split("=");
        values.set(name, unquoted(value.join("=")));
        break;
      }
      case "WORKDIR":
        steps.push({ type: "workdir", args: { path: expand(unquoted(rest)) } });
        break;
      case "USER":
        steps.push({ type: "user", name: expand(rest).split(":")[0] ?? "" });
        break;
      case "CMD":
        starts.cmd = commandOf(rest);
        break;
      case "ENTRYPOINT":
        starts.entrypoint = commandOf(rest);
        break;
      case "EXPOSE":
      case "LABEL":
      case "MAINTAINER":
      case "STOPSIGNAL":
        break;
      case "COPY":
      case "ADD":
        throw notSupported(`${instruction}, since it comes without files (use osb template build)`);
      default:
        throw notSupported(instruction);
    }
  }
  if (image === undefined) throw new SandboxError("invalid_argument", "the Dockerfile has no FROM");
  const { entrypoint, cmd } = starts;
  const startCommand = [entrypoint, cmd].filter((part) => part !== undefined).join(" ");
  return { base: { kind: "image", image }, steps, ...(startCommand === "" ? {} : { startCommand }) };
}

function* instructionsOf(text: string): Generator<{ readonly instruction: string; readonly rest: string }> {
  let joined = "";
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*#/.test(line)) continue;
    joined += line.replace(/\\\s*$/, "\n");
    if (/\\\s*$/.test(line) || joined.trim() === "") continue;
    const [, instruction = "", rest = ""] = /^\s*(\S+)\s*([^]*)$/.exec(joined) ?? [];
    joined = "";
    if (/<<-?["']?\w/.test(rest)) throw notSupported("a here-document");
    yield { instruction: instruction.toUpperCase(), rest: rest.trim().replaceAll("\n", " ") };
  }
}

/** The shell form, or the words of the form that is JSON, quoted for a shell. */
function commandOf(rest: string): string {
  if (!rest.startsWith("[")) return rest;
  try {
    const words: unknown = JSON.parse(rest);
    if (Array.isArray(words) && words.every((word) => typeof word === "string")) {
      return words
        .map((word) => (/^[\w./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
        .join(" ");
    }
  } catch {
    // As for Docker, a text that is not JSON is a command for the shell.
  }
  return rest;
}

interface Pair {
  readonly name: string;
  readonly value: string;
  /** In single quotes, within which nothing is replaced. */
  readonly literal: boolean;
}

/** `NAME=value NAME="other value"`, or the older `NAME the value`. */
function pairsOf(rest: string): readonly Pair[] {
  const pairs = [...rest.matchAll(/(\w+)=("(?:[^"\\]|\\.)*"|'[^']*'|(?:[^\s\\]|\\.)*)/g)];
  if (/^\w+=/.test(rest)) {
    return pairs.map(([, name = "", raw = ""]) => ({ name, value: unquoted(raw), literal: raw.startsWith("'") }));
  }
  const [, name = "", value = ""] = /^(\w+)\s+([^]*)$/.exec(rest) ?? [];
  if (name === "") throw new SandboxError("invalid_argument", `ENV ${rest}: a name and a value are needed`);
  return [{ name, value, literal: false }];
}

function unquoted(value: string): string {
  if (value.startsWith("'")) return value.slice(1, -1);
  return value.replace(/^"([^]*)"$/, "$1").replaceAll(/\\(.)/g, "$1");
}

function notSupported(what: string): SandboxError<"not_supported"> {
  return new SandboxError("not_supported", `a template's Dockerfile cannot have ${what}`);
}
