import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { numberInput, textInput, type Tool } from "./tool.ts";

const defaultLines = 2000;
const maxLineLength = 2000;
const maxFileBytes = 10 * 2 ** 20;

const filePath = {
  type: "string",
  description: "An absolute path, or one relative to the working directory.",
} as const;

export const read: Tool = {
  name: "Read",
  description: `Reads a text file with line numbers. Returns at most ${defaultLines} lines by default.`,
  input_schema: {
    type: "object",
    properties: {
      file_path: filePath,
      offset: { type: "number", description: "Number of the first line, starting at 1." },
      limit: { type: "number", description: "Maximum number of lines." },
    },
    required: ["file_path"],
  },
  async run(input, { cwd, signal }) {
    const path = resolve(cwd, textInput(input, "file_path"));
    const from = Math.max(numberInput(input, "offset") ?? 1, 1);
    const { size } = await stat(path);
    if (size > maxFileBytes)
      throw new Error(
        `${path} is too large to read (${size} bytes, the limit is ${maxFileBytes}): use Bash to read parts of it`,
      );
    const lines = (await readFile(path, { encoding: "utf8", signal })).split("\n");
    if (lines.at(-1) === "") lines.pop();
    const shown = lines.slice(from - 1, from - 1 + (numberInput(input, "limit") ?? defaultLines));
    const text = shown.map((line, index) => `${from + index}\t${line.slice(0, maxLineLength)}`).join("\n");
    const left = lines.length - (from - 1) - shown.length;
    return { text: [text, ...(left > 0 ? [`(${left} more lines)`] : [])].join("\n") || "(empty)", isError: false };
  },
};

export const write: Tool = {
  name: "Write",
  description: "Writes a file, replacing an existing one. Creates missing parent directories.",
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
  description: "Replaces a string in a file. The string must occur exactly once, unless replace_all is set.",
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
    if (from === "") throw new Error("old_string must not be empty: use Write to create a file");
    const parts = (await readFile(path, "utf8")).split(from);
    const found = parts.length - 1;
    if (found === 0) throw new Error(`old_string does not occur in ${path}`);
    if (found > 1 && input["replace_all"] !== true) {
      throw new Error(`old_string occurs ${found} times in ${path}: include more surrounding text, or set replace_all`);
    }
    await writeFile(path, parts.join(to));
    return { text: `replaced ${found} ${found === 1 ? "occurrence" : "occurrences"} in ${path}`, isError: false };
  },
};
