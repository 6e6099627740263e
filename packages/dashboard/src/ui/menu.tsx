import { Menu as Base } from "@base-ui/react/menu";
import type { ReactNode } from "react";
import { buttonClass } from "./controls.tsx";
import { Icon } from "./icons.tsx";
import styles from "./layers.module.css";

export interface MenuEntry {
  readonly label: string;
  /** What it does or costs. */
  readonly hint?: string;
  readonly isDangerous?: boolean;
  readonly onSelect: () => void;
}

interface MenuProps {
  /** The name of the button. */
  readonly label: string;
  readonly entries: readonly MenuEntry[];
  /** Default: three dots. */
  readonly children?: ReactNode;
}

export function Menu({ label, entries, children }: MenuProps): ReactNode {
  const isIcon = children === undefined;
  return (
    <Base.Root modal={false}>
      <Base.Trigger
        className={buttonClass(isIcon ? "quiet" : "plain", isIcon, isIcon)}
        aria-label={label}
        title={label}
      >
        {children ?? <Icon name="more" />}
      </Base.Trigger>
      <Base.Portal>
        <Base.Positioner className={styles["positioner"]} sideOffset={4} align="end">
          <Base.Popup className={styles["menu"]}>
            {entries.map(({ label: text, hint, isDangerous = false, onSelect }, index) => (
              <Base.Group key={text}>
                {isDangerous && index > 0 ? <Base.Separator className={styles["separator"]} /> : null}
                <Base.Item
                  className={`${styles["item"]} ${isDangerous ? styles["dangerous"] : ""}`}
                  label={text}
                  onClick={onSelect}
                >
                  <span>{text}</span>
                  {hint === undefined ? null : <small>{hint}</small>}
                </Base.Item>
              </Base.Group>
            ))}
          </Base.Popup>
        </Base.Positioner>
      </Base.Portal>
    </Base.Root>
  );
}
