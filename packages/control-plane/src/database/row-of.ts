type Snake<Name extends string> = Name extends `${infer First}${infer Rest}`
  ? First extends Lowercase<First>
    ? `${First}${Snake<Rest>}`
    : `_${Lowercase<First>}${Snake<Rest>}`
  : Name;

type Column<Value> = Value extends boolean
  ? number
  : Value extends Date
    ? number
    : Value extends undefined
      ? null
      : Value extends string | number | null
        ? Value
        : string;

/** The columns that hold an object's properties. */
export type RowOf<Values> = {
  [Name in keyof Values as Snake<Name & string>]-?: Column<Values[Name] | Extract<undefined, Values[Name]>>;
};

/** What an object's properties are in its row: names with underscores, dates as milliseconds, maps as JSON. */
export function rowOf<Values extends object>(values: Values): RowOf<Values> {
  const entries = Object.entries(values).map(([name, value]) => [columnName(name), encoded(value)]);
  return Object.fromEntries(entries) as RowOf<Values>;
}

function columnName(name: string): string {
  return name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`);
}

function encoded(value: unknown): unknown {
  if (value === undefined) return null;
  if (value instanceof Date) return value.getTime();
  if (typeof value === "boolean") return value ? 1 : 0;
  if (typeof value === "object") return JSON.stringify(value);
  return value;
}

export function dateOf(time: number | null): Date | undefined {
  return time === null ? undefined : new Date(time);
}

export function mapOf(json: string): Record<string, string> {
  return JSON.parse(json) as Record<string, string>;
}
