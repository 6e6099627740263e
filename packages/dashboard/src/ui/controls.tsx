import type { ButtonHTMLAttributes, InputHTMLAttributes, ReactNode, TextareaHTMLAttributes } from "react";
import { useId } from "react";
import { messageOf } from "./format.ts";
import styles from "./controls.module.css";

type Look = "plain" | "primary" | "danger" | "quiet";

interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  readonly look?: Look;
  readonly isSmall?: boolean;
}

/** The class names of a button, for links that look like one. */
export function buttonClass(look: Look = "plain", isSmall = false, isIcon = false): string {
  return [
    styles["button"],
    look === "plain" ? "" : styles[look],
    isSmall ? styles["small"] : "",
    isIcon ? styles["icon"] : "",
  ].join(" ");
}

export function Button({ look = "plain", isSmall = false, type = "button", ...rest }: ButtonProps): ReactNode {
  // oxlint-disable-next-line react/button-has-type -- the default is above
  return <button {...rest} type={type} className={buttonClass(look, isSmall)} />;
}

/** A button that shows an icon alone; `label` is its name. */
export function IconButton({
  label,
  look = "quiet",
  isSmall = false,
  ...rest
}: ButtonProps & { readonly label: string }): ReactNode {
  return (
    <button {...rest} type="button" aria-label={label} title={label} className={buttonClass(look, isSmall, true)} />
  );
}

export function Hidden({ children }: { readonly children: ReactNode }): ReactNode {
  return <span className={styles["hidden"]}>{children}</span>;
}

interface Labelled {
  readonly label: string;
  readonly hint?: string | undefined;
}

/** The attributes that tie a control to its label and its hint. */
interface Ties {
  readonly id: string;
  readonly "aria-describedby": string | undefined;
}

interface FieldProps extends Labelled {
  /** The class that arranges label, control and hint. */
  readonly frame?: "field" | "check";
  readonly children: (ties: Ties) => ReactNode;
}

/** Frames a control with its label and its hint. */
function Field({ label, hint, frame = "field", children }: FieldProps): ReactNode {
  const id = useId();
  const hintId = hint === undefined ? undefined : `${id}-hint`;
  return (
    <div className={styles[frame]}>
      <label className={styles["label"]} htmlFor={id}>
        {label}
      </label>
      {children({ id, "aria-describedby": hintId })}
      {hint === undefined ? null : (
        <p id={hintId} className={styles["hint"]}>
          {hint}
        </p>
      )}
    </div>
  );
}

export function TextField({ label, hint, ...rest }: Labelled & InputHTMLAttributes<HTMLInputElement>): ReactNode {
  return <Field {...{ label, hint }}>{(ties) => <input {...rest} {...ties} className={styles["input"]} />}</Field>;
}

export function TextArea({ label, hint, ...rest }: Labelled & TextareaHTMLAttributes<HTMLTextAreaElement>): ReactNode {
  return (
    <Field {...{ label, hint }}>
      {(ties) => <textarea spellCheck={false} {...rest} {...ties} className={styles["input"]} />}
    </Field>
  );
}

interface Choice {
  readonly value: string;
  readonly label: string;
}

interface SelectProps extends Labelled {
  readonly value: string;
  readonly choices: readonly Choice[];
  readonly onChange: (value: string) => void;
}

export function SelectField({ label, hint, value, choices, onChange }: SelectProps): ReactNode {
  return (
    <Field {...{ label, hint }}>
      {(ties) => (
        <select {...ties} className={styles["input"]} value={value} onChange={(event) => onChange(event.target.value)}>
          {choices.map((choice) => (
            <option key={choice.value} value={choice.value}>
              {choice.label}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

interface CheckProps extends Labelled {
  readonly checked: boolean;
  readonly onChange: (checked: boolean) => void;
}

export function CheckField({ label, hint, checked, onChange }: CheckProps): ReactNode {
  return (
    <Field {...{ label, hint }} frame="check">
      {(ties) => (
        <input {...ties} type="checkbox" checked={checked} onChange={(event) => onChange(event.target.checked)} />
      )}
    </Field>
  );
}

interface StateProps {
  /** A state of a sandbox, of an image or of a checkpoint. */
  readonly of: string;
  /** Its text, for a state of anything else. */
  readonly label?: string;
}

export function State({ of: state, label = state }: StateProps): ReactNode {
  const looks: Readonly<Record<string, string>> = {
    ready: "running",
    success: "running",
    processing: "creating",
    building: "creating",
    pending: "creating",
    failed: "error",
  };
  return <span className={`${styles["state"]} ${styles[looks[state] ?? state] ?? styles["stopped"]}`}>{label}</span>;
}

export function Tag({ children }: { readonly children: ReactNode }): ReactNode {
  return <span className={styles["tag"]}>{children}</span>;
}

export function Loading({ what }: { readonly what: string }): ReactNode {
  return (
    <div className={styles["loading"]} role="status">
      <span className={styles["spinner"]} aria-hidden />
      {what}
    </div>
  );
}

export function Spinner(): ReactNode {
  return <span className={styles["spinner"]} aria-hidden />;
}

/** What failed and, where there is one, the way to try again. */
export function Failure({ error, onRetry }: { readonly error: unknown; readonly onRetry?: () => void }): ReactNode {
  return (
    <div className={`${styles["note"]} ${styles["failed"]}`} role="alert">
      <span>{messageOf(error)}</span>
      {onRetry === undefined ? null : (
        <Button isSmall onClick={onRetry}>
          Try again
        </Button>
      )}
    </div>
  );
}

export function Note({
  children,
  isWarning = false,
}: {
  readonly children: ReactNode;
  readonly isWarning?: boolean;
}): ReactNode {
  return <div className={`${styles["note"]} ${isWarning ? styles["warned"] : ""}`}>{children}</div>;
}

export function Empty({ title, children }: { readonly title: string; readonly children?: ReactNode }): ReactNode {
  return (
    <div className={styles["empty"]}>
      <h2>{title}</h2>
      {children}
    </div>
  );
}

interface TableProps<Row> {
  /** The table's name for screen readers. */
  readonly label: string;
  readonly columns: readonly {
    readonly title: string;
    readonly cell: (row: Row) => ReactNode;
    readonly isNumber?: boolean;
  }[];
  readonly rows: readonly Row[];
  readonly keyOf: (row: Row) => string;
}

export function Table<Row>({ label, columns, rows, keyOf }: TableProps<Row>): ReactNode {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the keyboard scrolls a wide table
    <div className={styles["tableScroll"]} role="region" aria-label={label} tabIndex={0}>
      <table className={styles["table"]}>
        <thead>
          <tr>
            {columns.map(({ title }, index) => (
              <th key={title === "" ? `column-${index}` : title} scope="col">
                {title === "" ? <Hidden>Actions</Hidden> : title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)}>
              {columns.map(({ title, cell, isNumber = false }, index) => (
                <td key={title === "" ? `column-${index}` : title} className={isNumber ? styles["number"] : undefined}>
                  {cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Mono({ children }: { readonly children: ReactNode }): ReactNode {
  return <span className={styles["mono"]}>{children}</span>;
}

/** Buttons at the end of a row. */
export function RowActions({ children }: { readonly children: ReactNode }): ReactNode {
  return <div className={styles["end"]}>{children}</div>;
}
