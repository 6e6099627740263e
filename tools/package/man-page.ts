import { globalOptions } from "../../packages/cli/src/arguments/global-options.ts";
import { type Option, optionName } from "../../packages/cli/src/arguments/option.ts";
import type { Command, Commands, Example } from "../../packages/cli/src/command.ts";
import { usage } from "../../packages/cli/src/help.ts";

const program = "osb";

const files = [
  ["/etc/opensandbox/server.env", "Settings of the service: a line NAME=VALUE each."],
  ["/etc/opensandbox/setup.json", "The changes of `osb host setup`, for `osb host remove`."],
  ["/var/lib/opensandbox", "The data of a server that root runs: database, sandboxes, images, the first API key."],
  ["~/.local/share/opensandbox", "The data of a server of another user."],
] as const;

const environment = [
  ["OPENSANDBOX_API_URL", "The server that commands use. Without it, they find the server of this user on this host."],
  ["OPENSANDBOX_API_KEY", "The key for that server."],
] as const;

const exitStatus = `0 for success, 1 for a failure, 2 for a wrong command line. \`osb run\` and \`osb exec\` exit with the code of
their command, 124 after its timeout, and 128 + N after signal N.`;

/**
 * The manual page osb(1) in the language of man(7), from the table of commands.
 * @param date seconds since 1970
 */
export function manPage(
  commands: Commands,
  { version, date }: { readonly version: string; readonly date: number },
): string {
  const day = new Date(date * 1000).toISOString().slice(0, 10);
  return [
    `.TH OSB 1 "${day}" "OpenSandbox ${version}" "User Commands"`,
    ".SH NAME",
    "osb \\- a real Linux machine for every AI agent",
    ".SH SYNOPSIS",
    `.B ${program}`,
    ".I COMMAND",
    "[options]",
    ".SH DESCRIPTION",
    text(
      "OpenSandbox runs sandboxes, which are virtual machines, on your own hosts. `osb` is its command line and its server.",
    ),
    ".SH COMMANDS",
    ...Object.entries(commands).flatMap(([word, entry]) => entryLines(commands, [word], entry)),
    ".SH OPTIONS",
    "Every command takes these.",
    ...optionLines(globalOptions),
    ".SH EXIT STATUS",
    text(exitStatus),
    ".SH ENVIRONMENT",
    ...environment.flatMap(([name, means]) => tagged(bold(name), means)),
    text("`osb config show` lists the settings of a server and their variables."),
    ".SH FILES",
    ...files.flatMap(([name, means]) => tagged(italic(name), means)),
    "",
  ].join("\n");
}

function entryLines(commands: Commands, path: readonly string[], entry: Commands[string]): string[] {
  if (entry.kind === "command") return commandLines(usage(commands, path, program), entry);
  return [
    ...(entry.alone === undefined ? [] : commandLines([program, ...path, "[options]"].join(" "), entry.alone)),
    ...Object.entries(entry.commands).flatMap(([word, inner]) => entryLines(commands, [...path, word], inner)),
  ];
}

function commandLines(usageLine: string, { summary, description, options, examples }: Command): string[] {
  return [
    `.SS ${quoted(usageLine)}`,
    text(`${summary}.`),
    ...(description ?? "")
      .split("\n\n")
      .filter((paragraph) => paragraph !== "")
      .flatMap((paragraph) => [".PP", text(paragraph)]),
    ...optionLines(options),
    ...examples.flatMap(exampleLines),
  ];
}

function optionLines(options: Readonly<Record<string, Option>>): string[] {
  return Object.entries(options).flatMap(([key, { help, placeholder, short }]) => {
    const names = `${short === undefined ? "" : `-${short}, `}--${optionName(key)}`;
    return tagged(`${bold(names)}${placeholder === undefined ? "" : ` ${italic(placeholder)}`}`, help);
  });
}

function exampleLines({ line, shows }: Example): string[] {
  const typed = /\bosb\b/.test(line) ? line : `${program} ${line}`;
  return [".PP", text(`Example: ${shows}`), ".RS 4", ".nf", escaped(typed), ".fi", ".RE"];
}

function tagged(tag: string, means: string): string[] {
  return [".TP", tag, text(means)];
}

function bold(name: string): string {
  return `\\fB${escaped(name)}\\fR`;
}

function italic(name: string): string {
  return `\\fI${escaped(name)}\\fR`;
}

function quoted(line: string): string {
  return `"${escaped(line).replaceAll('"', "\\(dq")}"`;
}

/** A paragraph. Its line breaks have no meaning. */
function text(paragraph: string): string {
  return escaped(paragraph.replaceAll(/\s+/g, " ").trim());
}

/** Protects what the formatter would read as a request, an escape or typography. */
function escaped(line: string): string {
  return line
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll("'", "\\(aq")
    .replaceAll("`", "\\(ga")
    .replaceAll("^", "\\(ha")
    .replaceAll("~", "\\(ti")
    .replace(/^(?=\.)/, "\\&");
}
