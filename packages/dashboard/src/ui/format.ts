/** The message of an error, for people. */
export function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.charAt(0).toUpperCase() + message.slice(1);
}

/** A size in bytes, such as `1.5 GiB`. */
export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"] as const;
  const power = count < 1 ? 0 : Math.min(Math.floor(Math.log2(count) / 10), units.length - 1);
  const value = count / 2 ** (10 * power);
  return `${power === 0 || value >= 100 ? Math.round(value) : Math.round(value * 10) / 10} ${units[power]}`;
}

export function mebibytes(count: number): string {
  return bytes(count * 2 ** 20);
}

const steps = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
] as const;

/** A duration in its largest unit, such as `3 h`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [unit, size] = steps.find(([, each]) => whole >= each) ?? ["s", 1];
  return `${Math.floor(whole / size)} ${unit}`;
}

/** How long ago something was. */
export function age(at: string, now: number): string {
  return duration((now - Date.parse(at)) / 1000);
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A time in the words of the browser's language. */
export function time(at: string): string {
  return clock.format(new Date(at));
}

/** `KEY=VALUE` lines as a record. @throws for a line without `=` */
export function pairs(lines: string): Record<string, string> {
  return Object.fromEntries(
    linesOf(lines).map((line) => {
      const at = line.indexOf("=");
      if (at < 1) throw new Error(`"${line.trim()}" is not KEY=VALUE`);
      return [line.slice(0, at).trim(), line.slice(at + 1)];
    }),
  );
}

/** The words of a list that are separated by commas, blanks or lines. */
export function words(text: string): string[] {
  return text.split(/[\s,]+/).filter((word) => word !== "");
}

/** The lines of a text that are not blank. */
export function linesOf(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}
