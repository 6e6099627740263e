import type { SandboxInfo } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import { lazy, type ReactNode, Suspense, useCallback, useDeferredValue, useMemo, useRef, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { useShortcut } from "../shell/shortcuts.tsx";
import { Button, Empty, Failure, Loading } from "../ui/controls.tsx";
import { Confirm } from "../ui/dialog.tsx";
import { Icon } from "../ui/icons.tsx";
import { useActions } from "./actions.tsx";
import { FirstRun } from "./first-run.tsx";
import { allSandboxes } from "./queries.ts";
import { SandboxList } from "./sandbox-list.tsx";
import styles from "./sandboxes.module.css";

/** The form is loaded when it is first asked for. */
const CreateSandbox = lazy(() => import("./create-sandbox.tsx"));

const statuses = ["all", "running", "hibernated", "error"] as const;
type Status = (typeof statuses)[number];

export function SandboxesPage(): ReactNode {
  const client = useClient();
  const may = useMay();
  const { data: listed, error, refetch } = useQuery(allSandboxes(client));
  const data = listed?.sandboxes;
  /** Undefined until a sandbox is first asked for. */
  const [isCreating, setCreating] = useState<boolean>();
  const create = useCallback((event: KeyboardEvent) => {
    event.preventDefault();
    setCreating(true);
  }, []);
  useShortcut("n", create);

  const newButton = (
    <Button look="primary" onClick={() => setCreating(true)}>
      <Icon name="plus" /> New sandbox
    </Button>
  );
  return (
    <Page
      title="Sandboxes"
      lead={data === undefined || data.length === 0 ? undefined : summaryOf(data)}
      actions={may("sandboxes:write") ? newButton : undefined}
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the list" /> : null}
      {data?.length === 0 ? <FirstRun /> : null}
      {data === undefined || data.length === 0 ? null : <Filtered sandboxes={data} />}
      {isCreating === undefined ? null : (
        <Suspense fallback={null}>
          <CreateSandbox isOpen={isCreating} onClose={() => setCreating(false)} />
        </Suspense>
      )}
    </Page>
  );
}

function summaryOf(sandboxes: readonly SandboxInfo[]): string {
  const running = sandboxes.filter(({ status }) => status === "running");
  const gib = running.reduce((sum, { memoryMib }) => sum + memoryMib, 0) / 1024;
  const vcpus = running.reduce((sum, each) => sum + each.vcpus, 0);
  const count = (number: number): string => number.toLocaleString();
  return `${count(running.length)} of ${count(sandboxes.length)} running, with ${count(Math.round(gib * 10) / 10)} GiB of memory and ${count(vcpus)} ${vcpus === 1 ? "vCPU" : "vCPUs"}`;
}

function Filtered({ sandboxes }: { readonly sandboxes: readonly SandboxInfo[] }): ReactNode {
  const [text, setText] = useState("");
  const [status, setStatus] = useState<Status>("all");
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const input = useRef<HTMLInputElement>(null);
  const focusFilter = useCallback((event: KeyboardEvent) => {
    event.preventDefault();
    input.current?.focus();
  }, []);
  useShortcut("/", focusFilter);

  // Typing stays fast: the list follows when there is time.
  const wanted = useDeferredValue(text.trim().toLowerCase());
  const shown = useMemo(
    () => sandboxes.filter((each) => (status === "all" || each.status === status) && matches(each, wanted)),
    [sandboxes, status, wanted],
  );
  const chosen = useMemo(() => sandboxes.filter(({ id }) => selected.has(id)), [sandboxes, selected]);

  return (
    <>
      <div className={styles["filters"]}>
        <label className={styles["search"]}>
          <Icon name="search" />
          <input
            ref={input}
            type="search"
            placeholder="Filter by name, id, image or label"
            aria-label="Filter"
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
        </label>
        <fieldset className={styles["statuses"]}>
          <legend>State</legend>
          {statuses.map((each) => (
            <label key={each}>
              <input type="radio" name="state" checked={status === each} onChange={() => setStatus(each)} />
              <span>{each}</span>
            </label>
          ))}
        </fieldset>
      </div>
      {chosen.length === 0 ? null : <Bulk chosen={chosen} onDone={() => setSelected(new Set())} />}
      {shown.length === 0 ? (
        <Empty title="No sandbox matches">
          <Button
            onClick={() => {
              setText("");
              setStatus("all");
            }}
          >
            Show all
          </Button>
        </Empty>
      ) : (
        <SandboxList sandboxes={shown} selected={selected} onSelect={setSelected} />
      )}
    </>
  );
}

function matches({ id, alias, image, metadata }: SandboxInfo, wanted: string): boolean {
  if (wanted === "") return true;
  const texts = [id, alias, image, ...Object.entries(metadata).map((pair) => pair.join("="))];
  return texts.some((each) => each.toLowerCase().includes(wanted));
}

/** Actions on all chosen sandboxes. */
function Bulk({ chosen, onDone }: { readonly chosen: readonly SandboxInfo[]; readonly onDone: () => void }): ReactNode {
  const { runAll } = useActions();
  const [isAsking, setAsking] = useState(false);
  const running = chosen.filter(({ status }) => status === "running");
  const hibernated = chosen.filter(({ status }) => status === "hibernated");
  return (
    <div className={styles["bulk"]} role="region" aria-label="Chosen sandboxes">
      <span>{chosen.length.toLocaleString()} chosen</span>
      <Button isSmall disabled={running.length === 0} onClick={() => void runAll("hibernate", running)}>
        Hibernate {running.length}
      </Button>
      <Button isSmall disabled={hibernated.length === 0} onClick={() => void runAll("wake", hibernated)}>
        Wake {hibernated.length}
      </Button>
      <Button isSmall look="danger" onClick={() => setAsking(true)}>
        Kill {chosen.length}
      </Button>
      <Button isSmall look="quiet" onClick={onDone}>
        Clear
      </Button>
      <Confirm
        title={`Kill ${chosen.length.toLocaleString()} sandboxes?`}
        action={`Kill ${chosen.length.toLocaleString()}`}
        isOpen={isAsking}
        onClose={() => setAsking(false)}
        onConfirm={() => {
          void runAll("kill", chosen);
          onDone();
        }}
      >
        <p>Their disks and memory are deleted at once, and nothing brings them back. Their checkpoints remain.</p>
      </Confirm>
    </div>
  );
}
