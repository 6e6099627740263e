import { readFile } from "node:fs/promises";

/** The last lines that QEMU wrote, on one line; empty when there are none. */
export async function readEnd(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    // It explains another error; without it that error still stands.
    return "";
  }
  return text.trim().split("\n").slice(-4).join("; ");
}
