import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { numberInput, textInput, type Tool } from "./tool.ts";

const defaultLines = 2000;
const maxLineLength = 2000;
const maxFileBytes = 10 * 2 ** 20;

const filePath = { type: "string", description: "Absolute, or from the working directory on." } as const;

export const read: Tool = {
  name: "Read",
  description: `Reads a text file, with the numbers of its lines: at most ${defaultLines} of them unless told otherwise.`,
  input_schema: {
    type: "object",
    properties: {
      file_path: filePath,
      offset: { type: "number", description: "The first line, from 1 on." },
      limit: { type: "number", description: "How many lines." },
    },
    required: ["file_path"],
  },
  async run(input, { cwd, signal }) {
    const path = resolve(cwd, textInput(input, "file_path"));
    const from = Math.max(numberInput(input, "offset") ?? 1, 1);
    const { size } = await stat(path);
    if (size > maxFileBytes)
      throw new Error(`${path} has ${size} bytes, which is too much: use Bash to see parts of it`);
    const lines = (await readFile(path, { encoding: "utf8", signal })).split("\n");
    if (lines.at(-1) === "") lines.pop();
    const told = lines.slice(from - 1, from - 1 + (numberInput(input, "limit") ?? defaultLines));
    const text = told.map((line, index) => `${from + index}\t${line.slice(0, maxLineLength)}`).join("\n");
    const left = lines.length - (from - 1) - told.length;
    return { text: [text, ...(left > 0 ? [`(${left} more lines)`] : [])].join("\n") || "(empty)", isError: false };
  },
};

export const write: Tool = {
  name: "Write",
  description: "Writes a file, in the place of one that is there; directories above it are made.",
  input_schema: {
    type: "object",
    properties: { file_path: filePath, content: { type: "string" } },
    required: ["file_path", "content"],
  },
  async run(input, { cwd }) {
    const path = resolve(cwd, textInput(input, "file_path"));
    const content = textInput(input, "content");
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    return { text: `wrote ${path}`, isError: false };
  },
};

export const edit: Tool = {
  name: "Edit",
  description: "Replaces a text in a file. It must be there exactly once, unless all of its places are to be replaced.",
  input_schema: {
    type: "object",
    properties: {
      file_path: filePath,
      old_string: { type: "string" },
      new_string: { type: "string" },
      replace_all: { type: "boolean" },
    },
    required: ["file_path", "old_string", "new_string"],
  },
  async run(input, { cwd }) {
    const path = resolve(cwd, textInput(input, "file_path"));
    const [from, to] = [textInput(input, "old_string"), textInput(input, "new_string")];
    if (from === "") throw new Error("old_string must not be empty: use Write for a new file");
    const parts = (await readFile(path, "utf8")).split(from);
    const found = parts.length - 1;
    if (found === 0) throw new Error(`old_string is not in ${path}`);
    if (found > 1 && input["replace_all"] !== true) {
      throw new Error(`old_string is in ${path} ${found} times: give more of what is around it, or replace_all`);
    }
    await writeFile(path, parts.join(to));
    return { text: `replaced ${found === 1 ? "it" : `${found} places`} in ${path}`, isError: false };
  },
};
