/** One line of JSON on standard error for each event; standard output belongs to what was asked for. */
export function log(level: "info" | "warn" | "error", message: string, fields: object = {}): void {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
}
