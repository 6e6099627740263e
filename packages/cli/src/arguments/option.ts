/** An input given by name, such as `--image NAME`. */
export interface Option<Value = unknown> {
  readonly help: string;
  /** The word that stands for the value in help. Absent: the option is a flag. */
  readonly placeholder?: string;
  /** The short form of the option, a single letter. */
  readonly short?: string;
  /**
   * @param values every value given for the option, in order; one empty text for each use of a flag
   * @param name the option as the user writes it
   * @throws `invalid_argument` when the values do not fit
   */
  read(values: readonly string[], name: string): Value;
}

/** An input given by position. */
export interface Argument<Value = unknown> {
  readonly placeholder: string;
  /** `command`: this word and every word after it, uninterpreted. */
  readonly takes: "one" | "at most one" | "some" | "command";
  read(values: readonly string[]): Value;
}

/** `apiUrl` is written `api-url`. */
export function optionName(key: string): string {
  return key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
