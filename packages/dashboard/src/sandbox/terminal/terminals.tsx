import type { ExecSession, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useSearch } from "@tanstack/react-router";
import { type ReactNode, useCallback, useEffect, useRef, useState } from "react";
import { useActions } from "../../sandboxes/actions.tsx";
import { useClient, useMay } from "../../session/signed-in.tsx";
import { Button, Failure, IconButton, Loading, Note } from "../../ui/controls.tsx";
import { Icon } from "../../ui/icons.tsx";
import { useNotify } from "../../ui/toasts.tsx";
import { Terminal } from "./terminal.tsx";
import styles from "../sandbox.module.css";

/** A shell that nobody looks at is killed after this time in seconds. */
const unwatchedSeconds = 3600;

/** The terminals of a sandbox: every session with a terminal that runs, whoever started it. */
export default function Terminals({ sandbox }: { readonly sandbox: SandboxInfo }): ReactNode {
  const { run } = useActions();
  const mayWrite = useMay()("sandboxes:write");
  if (sandbox.status === "running" && mayWrite) return <Open sandbox={sandbox} />;
  return (
    <section className={styles["terminals"]} aria-label="Terminals">
      <div className={styles["asleep"]}>
        {mayWrite ? (
          <p>The sandbox is {sandbox.status}. Its terminals continue where they were when it wakes.</p>
        ) : null}
        {mayWrite ? null : <p>The key of this session may not open terminals.</p>}
        {sandbox.status === "hibernated" && mayWrite ? (
          <Button onClick={() => run("wake", sandbox)}>Wake it</Button>
        ) : null}
      </div>
    </section>
  );
}

function Open({ sandbox: { id } }: { readonly sandbox: SandboxInfo }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const key = ["sandbox", id, "sessions"];
  const { data, error, refetch } = useQuery({
    queryKey: key,
    queryFn: ({ signal }) => client.sessions.list(id, signal),
  });
  const terminals = data?.filter(({ terminal, running }) => terminal && running);
  const [chosen, setChosen] = useState<string>();
  const [isStarting, setStarting] = useState(false);
  const current = terminals?.find((each) => each.id === chosen) ?? terminals?.[0];
  const isFirstRun = useSearch({
    strict: false,
    select: (search: { readonly try?: unknown }) => search.try !== undefined,
  });

  const start = useCallback(async () => {
    setStarting(true);
    try {
      const session = await client.sessions.start(id, {
        ...{ cmd: "/bin/bash", args: ["-l"], envs: { TERM: "xterm-256color" } },
        ...{ terminal: { columns: 80, rows: 24 }, maxRunAfterDisconnect: unwatchedSeconds },
      });
      queries.setQueryData<readonly ExecSession[]>(["sandbox", id, "sessions"], (list = []) => [...list, session]);
      setChosen(session.id);
    } catch (failure) {
      notify.failed(failure);
    } finally {
      setStarting(false);
    }
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- notify only shows
  }, [client, id, queries]);

  // The page opens with a terminal, once.
  const hasStarted = useRef(false);
  useEffect(() => {
    if (hasStarted.current || terminals === undefined || terminals.length > 0) return;
    hasStarted.current = true;
    void start();
  }, [terminals, start]);

  const close = (session: ExecSession): void => {
    queries.setQueryData<readonly ExecSession[]>(key, (list = []) => list.filter((each) => each.id !== session.id));
    client.sessions.kill(id, session.id).catch(notify.failed);
  };
  const onEnd = useCallback(
    (sessionId: string) => {
      queries.setQueryData<readonly ExecSession[]>(["sandbox", id, "sessions"], (list = []) =>
        list.filter((each) => each.id !== sessionId),
      );
    },
    [queries, id],
  );

  if (error !== null) return <Failure error={error} onRetry={() => void refetch()} />;
  if (terminals === undefined) return <Loading what="Reading the terminals" />;
  return (
    <>
      {isFirstRun ? <FirstCommand sandboxId={id} sessionId={current?.id} /> : null}
      <section className={styles["terminals"]} aria-label="Terminals">
        <div className={styles["bar"]}>
          {terminals.map((session, index) => (
            <span key={session.id} className={`${styles["session"]} ${session === current ? styles["current"] : ""}`}>
              <button type="button" aria-pressed={session === current} onClick={() => setChosen(session.id)}>
                {index + 1}: {session.command.split("/").at(-1)}
              </button>
              <IconButton isSmall label={`End terminal ${index + 1}`} onClick={() => close(session)}>
                <Icon name="close" />
              </IconButton>
            </span>
          ))}
          <IconButton isSmall label="New terminal" disabled={isStarting} onClick={() => void start()}>
            <Icon name="plus" />
          </IconButton>
        </div>
        {current === undefined ? (
          <div className={styles["asleep"]}>
            <p>{isStarting ? "Starting a shell" : "No terminal is open."}</p>
          </div>
        ) : (
          <Terminal key={current.id} sandboxId={id} sessionId={current.id} onEnd={onEnd} />
        )}
      </section>
    </>
  );
}

/** A first command, typed into the terminal by a button. */
function FirstCommand({
  sandboxId,
  sessionId,
}: {
  readonly sandboxId: string;
  readonly sessionId: string | undefined;
}): ReactNode {
  const client = useClient();
  const notify = useNotify();
  const [isDone, setDone] = useState(false);
  const command = "uname -a && free -h";
  async function type(session: string): Promise<void> {
    const attached = await client.sessions.attach(sandboxId, session);
    await attached.write(new TextEncoder().encode(`${command}\n`));
    attached.detach();
    setDone(true);
  }
  return (
    <Note>
      <div className={styles["hint"]}>
        {isDone ? (
          <span>That ran in a kernel of its own. Try hibernate and wake above: the shell stays as it is.</span>
        ) : (
          <>
            <span>This machine is yours. A first command:</span>
            <code>{command}</code>
            <Button
              isSmall
              look="primary"
              disabled={sessionId === undefined}
              onClick={() => {
                if (sessionId !== undefined) type(sessionId).catch(notify.failed);
              }}
            >
              Run it
            </Button>
          </>
        )}
      </div>
    </Note>
  );
}
