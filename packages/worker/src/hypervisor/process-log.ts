import { readFile } from "node:fs/promises";

/** The last four lines of QEMU's log, joined to one; empty without a log. */
export async function readEnd(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    // The log only explains an error that the caller reports anyway.
    return "";
  }
  return text.trim().split("\n").slice(-4).join("; ");
}
