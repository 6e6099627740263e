/** Writes one structured log line. `fields` are data for machines; `message` is a sentence for people. */
export type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;
