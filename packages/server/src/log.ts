/**
 * Writes one line of JSON to standard error for each event; standard output belongs to results. Characters that a
 * terminal acts upon are escaped: `JSON.stringify` does not escape DEL and the C1 controls, and log lines may contain
 * text from guests.
 */
export function log(level: "info" | "warn" | "error", message: string, fields: object = {}): void {
  const line = JSON.stringify({ time: new Date().toISOString(), level, message, ...fields });
  process.stderr.write(`${line.replaceAll(/[\u007F-\u009F]/g, escaped)}\n`);
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
