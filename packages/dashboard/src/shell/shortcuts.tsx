import { useNavigate } from "@tanstack/react-router";
import { Fragment, type ReactNode, useEffect, useState } from "react";
import { CheckField, IconButton } from "../ui/controls.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { Icon } from "../ui/icons.tsx";
import { pages } from "./pages.ts";
import styles from "./shell.module.css";

const storageKey = "opensandbox-shortcuts";

const keys: readonly (readonly [string, string])[] = [
  ["n", "Create a sandbox"],
  ["/", "Filter the list"],
  ["j", "Next row"],
  ["k", "Previous row"],
  ...pages.map(({ key, label }): [string, string] => [`g ${key}`, label]),
  ["?", "Show this list"],
];

/** Runs a single-key shortcut of a page. It does nothing while a text is edited or a dialog is open. */
export function useShortcut(key: string, run: (event: KeyboardEvent) => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key === key && isCommand(event)) run(event);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [key, run]);
}

function isCommand({ target, ctrlKey, metaKey, altKey, defaultPrevented }: KeyboardEvent): boolean {
  if (ctrlKey || metaKey || altKey || defaultPrevented || localStorage.getItem(storageKey) === "off") return false;
  if (!(target instanceof Element)) return true;
  return target.closest("input, textarea, select, [contenteditable], [role=dialog], [role=menu], .xterm") === null;
}

/** The help of the keyboard, and the keys that work on every page. */
export function Shortcuts(): ReactNode {
  const navigate = useNavigate();
  const [isOpen, setOpen] = useState(false);
  const [isOn, setOn] = useState(() => localStorage.getItem(storageKey) !== "off");

  useEffect(() => {
    let afterG = -Infinity;
    const onKey = (event: KeyboardEvent): void => {
      if (!isCommand(event)) return;
      const goes = event.timeStamp - afterG < 1500;
      afterG = event.key === "g" ? event.timeStamp : -Infinity;
      if (event.key === "?") setOpen(true);
      const page = goes ? pages.find(({ key }) => key === event.key) : undefined;
      if (page !== undefined) void navigate({ to: page.to });
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [navigate]);

  return (
    <>
      <IconButton label="Keyboard" onClick={() => setOpen(true)}>
        <Icon name="keyboard" />
      </IconButton>
      <Dialog title="Keyboard" isOpen={isOpen} onClose={() => setOpen(false)}>
        <dl className={styles["shortcuts"]}>
          {keys.map(([key, does]) => (
            <Fragment key={key}>
              <dt>
                {key.split(" ").map((each) => (
                  <kbd key={each}>{each}</kbd>
                ))}
              </dt>
              <dd>{does}</dd>
            </Fragment>
          ))}
        </dl>
        <CheckField
          label="Single-key shortcuts"
          checked={isOn}
          onChange={(on) => {
            localStorage.setItem(storageKey, on ? "on" : "off");
            setOn(on);
          }}
        />
      </Dialog>
    </>
  );
}
