import type { SandboxInfo } from "@opensandbox/sdk";
import { Link } from "@tanstack/react-router";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { memo, type ReactNode, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { useMay } from "../session/signed-in.tsx";
import { useShortcut } from "../shell/shortcuts.tsx";
import { Hidden, State, Tag } from "../ui/controls.tsx";
import { age, duration, mebibytes, time } from "../ui/format.ts";
import { Menu } from "../ui/menu.tsx";
import { type Actions, nameOf, useActions } from "./actions.tsx";
import styles from "./sandboxes.module.css";

interface SandboxListProps {
  readonly sandboxes: readonly SandboxInfo[];
  readonly selected: ReadonlySet<string>;
  readonly onSelect: (selected: ReadonlySet<string>) => void;
}

const rowHeight = 56;
const columns = ["Name", "State", "Image", "vCPUs", "Memory", "Age", "Sleeps in"] as const;

/** The list as a table. Only the rows in view are in the document. */
export function SandboxList({ sandboxes, selected, onSelect }: SandboxListProps): ReactNode {
  const actions = useActions();
  const now = useNow();
  const table = useRef<HTMLDivElement>(null);
  const [offset, setOffset] = useState(0);
  useLayoutEffect(() => setOffset(table.current?.offsetTop ?? 0), [selected.size]);
  const virtualizer = useWindowVirtualizer({
    count: sandboxes.length,
    estimateSize: () => rowHeight,
    overscan: 8,
    scrollMargin: offset,
    getItemKey: (index) => sandboxes[index]?.id ?? index,
  });

  const focusRow = useCallback(
    (step: 1 | -1) => {
      const focused = document.activeElement?.closest<HTMLElement>("[data-index]")?.dataset["index"];
      const at = focused === undefined ? (step === 1 ? 0 : sandboxes.length - 1) : Number(focused) + step;
      if (at < 0 || at >= sandboxes.length) return;
      virtualizer.scrollToIndex(at, { align: "auto" });
      requestAnimationFrame(() => table.current?.querySelector<HTMLElement>(`[data-index="${at}"] a`)?.focus());
    },
    [sandboxes.length, virtualizer],
  );
  useShortcut(
    "j",
    useCallback(() => focusRow(1), [focusRow]),
  );
  useShortcut(
    "k",
    useCallback(() => focusRow(-1), [focusRow]),
  );

  const toggle = useCallback(
    (id: string) => onSelect(selected.has(id) ? selected.difference(new Set([id])) : selected.union(new Set([id]))),
    [selected, onSelect],
  );
  const shownIds = useMemo(() => new Set(sandboxes.map(({ id }) => id)), [sandboxes]);
  const areAllChosen = sandboxes.length > 0 && selected.isSupersetOf(shownIds);

  return (
    <div
      className={styles["table"]}
      role="table"
      aria-label="Sandboxes"
      aria-rowcount={sandboxes.length + 1}
      ref={table}
    >
      <div role="rowgroup" className={styles["head"]}>
        <div role="row" className={styles["row"]} aria-rowindex={1}>
          <span role="columnheader" className={styles["check"]}>
            <input
              type="checkbox"
              aria-label="Choose all"
              checked={areAllChosen}
              onChange={() => onSelect(areAllChosen ? new Set() : shownIds)}
            />
          </span>
          {columns.map((title) => (
            <span key={title} role="columnheader">
              {title}
            </span>
          ))}
          <span role="columnheader">
            <Hidden>Actions</Hidden>
          </span>
        </div>
      </div>
      <div role="rowgroup" className={styles["rows"]} style={{ height: virtualizer.getTotalSize() }}>
        {virtualizer.getVirtualItems().map(({ key, index, start }) => {
          const sandbox = sandboxes[index];
          if (sandbox === undefined) return null;
          return (
            <div
              key={key}
              role="row"
              aria-rowindex={index + 2}
              data-index={index}
              className={styles["row"]}
              style={{ transform: `translateY(${start - offset}px)` }}
            >
              <Row {...{ sandbox, now, actions, toggle }} isChosen={selected.has(sandbox.id)} />
            </div>
          );
        })}
      </div>
      {actions.dialog}
    </div>
  );
}

interface RowProps {
  readonly sandbox: SandboxInfo;
  readonly now: number;
  readonly isChosen: boolean;
  readonly actions: Actions;
  readonly toggle: (id: string) => void;
}

const Row = memo(function Row({ sandbox, now, isChosen, actions, toggle }: RowProps): ReactNode {
  const { id, alias, status, image, vcpus, memoryMib, createdAt, expiresAt, metadata } = sandbox;
  const may = useMay();
  const isBusy = actions.busy.has(id);
  return (
    <>
      <span role="cell" className={styles["check"]}>
        <input
          type="checkbox"
          aria-label={`Choose ${nameOf(sandbox)}`}
          checked={isChosen}
          onChange={() => toggle(id)}
        />
      </span>
      <span role="cell" className={styles["name"]}>
        <Link to="/sandboxes/$id/$view" params={{ id, view: "terminal" }} title={nameOf(sandbox)}>
          {nameOf(sandbox)}
        </Link>
        <small>
          {alias === "" ? null : <span className={styles["id"]}>{id}</span>}
          {Object.entries(metadata)
            .slice(0, 2)
            .map(([key, value]) => (
              <Tag key={key}>
                {key}={value}
              </Tag>
            ))}
        </small>
      </span>
      <span role="cell" className={styles["state"]}>
        <State of={isBusy ? "pending" : status} />
      </span>
      <span role="cell" className={styles["image"]} title={image}>
        {image}
      </span>
      <span role="cell" className={styles["number"]}>
        {vcpus}
        <i> vCPU</i>
      </span>
      <span role="cell" className={styles["number"]}>
        {mebibytes(memoryMib)}
      </span>
      <span role="cell" className={styles["number"]} title={time(createdAt)}>
        {age(createdAt, now)}
      </span>
      <span role="cell" className={`${styles["number"]} ${styles["sleeps"]}`}>
        {expiresAt === undefined ? "never" : duration((Date.parse(expiresAt) - now) / 1000)}
      </span>
      <span role="cell" className={styles["menu"]}>
        {may("sandboxes:write") ? (
          <Menu label={`Actions of ${nameOf(sandbox)}`} entries={actions.entries(sandbox)} />
        ) : null}
      </span>
    </>
  );
});

/** The current time, every ten seconds. */
function useNow(): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 10_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}
