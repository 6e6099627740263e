import type { SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useMemo, useState } from "react";
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
      <Use sandboxId={id} />
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

const chart = { width: 600, height: 120 } as const;

/** The memory that the sandbox had over the last day, as a drawing. */
function Use({ sandboxId }: { readonly sandboxId: string }): ReactNode {
  const client = useClient();
  const from = useMemo(() => new Date(Date.now() - 86_400_000).toISOString(), []);
  const { data } = useQuery({
    queryKey: ["sandbox", sandboxId, "use", from],
    queryFn: ({ signal }) => client.usage.ofSandbox(sandboxId, { from }, signal),
  });
  if (data === undefined || data.points.length < 2) return null;
  const max = Math.max(1, ...data.points.map(({ peakMemoryMib }) => peakMemoryMib));
  const step = chart.width / (data.points.length - 1);
  const points = data.points.map(
    ({ peakMemoryMib }, index) => `${index * step},${chart.height - (peakMemoryMib / max) * (chart.height - 8)}`,
  );
  const hours = Math.round((data.uptimeSeconds / 3600) * 10) / 10;
  return (
    <section className={styles["setting"]} aria-label="Memory over the last day">
      <h2>Memory over the last day</h2>
      <svg
        className={styles["chart"]}
        viewBox={`0 0 ${chart.width} ${chart.height}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`At most ${max} MiB; it ran for ${hours} hours`}
      >
        <polygon points={`0,${chart.height} ${points.join(" ")} ${chart.width},${chart.height}`} />
        <polyline points={points.join(" ")} />
      </svg>
      <p className={styles["legend"]}>
        At most {max.toLocaleString()} MiB. It ran for {hours} hours.
      </p>
    </section>
  );
}
