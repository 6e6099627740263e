import type { SandboxInfo } from "@opensandbox/sdk";
import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { showSandbox } from "../sandboxes/queries.ts";
import { Button, TextField } from "../ui/controls.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./settings.module.css";

/** What can be changed of a sandbox while it exists. */
export default function Settings({ sandbox }: { readonly sandbox: SandboxInfo }): ReactNode {
  const { id, status, memoryMib, idleTimeoutSeconds } = sandbox;
  const client = useClient();
  return (
    <div className={styles["settings"]}>
      <Setting
        sandboxId={id}
        label="Idle timeout (seconds)"
        hint="Hibernates it after this time without a call. 0: never"
        stored={idleTimeoutSeconds}
        min={0}
        isPossible={status === "running"}
        save={(value) => client.sandboxes.setTimeout(id, value)}
      />
      <Setting
        sandboxId={id}
        label="Memory (MiB)"
        hint="Of the running machine, up to eight times what it booted with"
        stored={memoryMib}
        min={128}
        isPossible={status === "running"}
        save={(value) => client.sandboxes.scale(id, value)}
      />
      <Labels metadata={sandbox.metadata} />
    </div>
  );
}

interface SettingProps {
  readonly sandboxId: string;
  readonly label: string;
  readonly hint: string;
  readonly stored: number;
  readonly min: number;
  readonly isPossible: boolean;
  readonly save: (value: number) => Promise<void>;
}

function Setting({ sandboxId, label, hint, stored, min, isPossible, save }: SettingProps): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [value, setValue] = useState(String(stored));
  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    try {
      await save(Number(value));
      showSandbox(queries, await client.sandboxes.get(sandboxId));
      notify.done(`${label} is ${value}`);
    } catch (failure) {
      notify.failed(failure);
    }
  }
  return (
    <form className={styles["setting"]} onSubmit={(event) => void submit(event)}>
      <TextField
        {...{ label, hint, min, value }}
        type="number"
        required
        disabled={!mayWrite || !isPossible}
        onChange={(event) => setValue(event.target.value)}
      />
      {mayWrite ? (
        <Button type="submit" disabled={!isPossible || value === String(stored)}>
          Apply
        </Button>
      ) : null}
    </form>
  );
}

function Labels({ metadata }: { readonly metadata: SandboxInfo["metadata"] }): ReactNode {
  const entries = Object.entries(metadata);
  return entries.length === 0 ? null : (
    <section className={styles["setting"]} aria-label="Labels">
      <h2>Labels</h2>
      <dl className={styles["labels"]}>
        {entries.map(([key, value]) => (
          <div key={key}>
            <dt>{key}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
