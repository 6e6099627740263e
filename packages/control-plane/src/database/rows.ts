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

/** An object as its row: names with underscores, dates as milliseconds, truth as 0 or 1, other objects as JSON. */
export function rowOf<Values extends object>(values: Values): RowOf<Values> {
  const entries = Object.entries(values).map(([name, value]) => [columnName(name), encoded(value)]);
  return Object.fromEntries(entries) as RowOf<Values>;
}

type Kind<Value> = Value extends string
  ? never
  : Value extends Date
    ? "date"
    : Value extends boolean
      ? "boolean"
      : Value extends object
        ? "json"
        : never;

/** How the properties that are neither text nor numbers are stored. The type names exactly those of `Values`. */
export type Kinds<Values> = {
  readonly [Name in keyof Values as [Kind<NonNullable<Values[Name]>>] extends [never] ? never : Name]-?: Kind<
    NonNullable<Values[Name]>
  >;
};

/** Reads rows that {@link rowOf} wrote. A column that is null becomes `undefined`. */
export function rowReader<Values extends object>(
  kinds: Kinds<Values>,
): (row: { readonly [Column in keyof RowOf<Values>]: unknown }) => Values {
  const kindOf = kinds as Readonly<Record<string, string>>;
  // Rows of a table have the same columns, whose names are translated once.
  const names = new Map<string, string>();
  return (row) => {
    const values: Record<string, unknown> = {};
    for (const [column, value] of Object.entries<unknown>(row)) {
      let name = names.get(column);
      if (name === undefined) names.set(column, (name = propertyName(column)));
      values[name] = value === null ? undefined : decoded(value, kindOf[name]);
    }
    return values as Values;
  };
}

function columnName(name: string): string {
  return name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`);
}

function propertyName(column: string): string {
  return column.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function encoded(value: unknown): unknown {
  if (value === undefined) return null;
  if (value instanceof Date) return value.getTime();
  if (typeof value === "boolean") return value ? 1 : 0;
  if (typeof value === "object") return JSON.stringify(value);
  return value;
}

function decoded(value: unknown, kind: string | undefined): unknown {
  if (kind === "date") return new Date(value as number);
  if (kind === "boolean") return value !== 0;
  if (kind === "json") return JSON.parse(value as string);
  return value;
}
