import type { ExecSession, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Button, Empty, Failure, Loading, Mono, RowActions, State, Table } from "../ui/controls.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { time } from "../ui/format.ts";
import { useNotify } from "../ui/toasts.tsx";
import { Asleep } from "./asleep.tsx";
import styles from "./log.module.css";

/** Sessions have no events, so they are read again this often while they are shown. */
const refreshMs = 3000;

/** The commands that run in a sandbox, or ended within the last five minutes, with their output. */
export default function Sessions({ sandbox }: { readonly sandbox: SandboxInfo }): ReactNode {
  if (sandbox.status !== "running") return <Asleep sandbox={sandbox} what="Its sessions can be seen while it runs." />;
  return <Running sandboxId={sandbox.id} />;
}

function Running({ sandboxId: id }: { readonly sandboxId: string }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [shown, setShown] = useState<ExecSession>();
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", id, "sessions"],
    queryFn: ({ signal }) => client.sessions.list(id, signal),
    refetchInterval: refreshMs,
  });

  async function kill(session: ExecSession): Promise<void> {
    try {
      await client.sessions.kill(id, session.id);
      notify.done(`${nameOf(session)} is killed`);
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["sandbox", id, "sessions"] });
  }

  if (error !== null) return <Failure error={error} onRetry={() => void refetch()} />;
  if (data === undefined) return <Loading what="Reading the sessions" />;
  if (data.length === 0) {
    return (
      <Empty title="No sessions">
        <p>A session is a command that runs whether or not anyone is attached: a terminal, a server, an agent.</p>
      </Empty>
    );
  }
  return (
    <>
      <Table
        label="Sessions"
        rows={data.toSorted((one, other) => other.startedAt.localeCompare(one.startedAt))}
        keyOf={(session) => session.id}
        columns={[
          { title: "Command", cell: (session) => <Mono>{nameOf(session)}</Mono> },
          {
            title: "State",
            cell: ({ running, exitCode }) => (
              <State of={running ? "running" : exitCode === 0 ? "ended" : `ended with ${exitCode}`} />
            ),
          },
          { title: "Terminal", cell: ({ terminal }) => (terminal ? "yes" : "no") },
          { title: "Attached", isNumber: true, cell: ({ attachedClients }) => attachedClients },
          { title: "Started", isNumber: true, cell: ({ startedAt }) => time(startedAt) },
          {
            title: "",
            cell: (session) =>
              mayWrite ? (
                <RowActions>
                  <Button isSmall onClick={() => setShown(session)}>
                    Output
                  </Button>
                  {session.running ? (
                    <Button isSmall look="danger" onClick={() => void kill(session)}>
                      Kill
                    </Button>
                  ) : null}
                </RowActions>
              ) : null,
          },
        ]}
      />
      {shown === undefined ? null : <Output sandboxId={id} session={shown} onClose={() => setShown(undefined)} />}
    </>
  );
}

interface OutputProps {
  readonly sandboxId: string;
  readonly session: ExecSession;
  readonly onClose: () => void;
}

/** The kept output of a session, as a text. */
function Output({ sandboxId, session, onClose }: OutputProps): ReactNode {
  const client = useClient();
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", sandboxId, "output", session.id],
    gcTime: 0,
    async queryFn({ signal }) {
      const decoder = new TextDecoder();
      let text = "";
      for await (const { bytes } of client.sessions.logs(sandboxId, session.id, signal)) {
        text += decoder.decode(bytes, { stream: true });
      }
      return text;
    },
  });
  return (
    <Dialog
      title={nameOf(session)}
      isOpen
      isWide
      onClose={onClose}
      foot={<Button onClick={() => void refetch()}>Read again</Button>}
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the output" /> : null}
      {data === undefined ? null : (
        // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the keyboard scrolls it
        <pre className={styles["output"]} tabIndex={0}>
          {data === "" ? "It has written nothing." : data}
        </pre>
      )}
    </Dialog>
  );
}

function nameOf({ command, args }: ExecSession): string {
  return [command, ...args].join(" ");
}
