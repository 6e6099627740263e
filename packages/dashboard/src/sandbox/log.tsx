import type { LogLine, LogSource, SandboxInfo } from "@opensandbox/sdk";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Empty, Failure, Loading } from "../ui/controls.tsx";
import { time } from "../ui/format.ts";
import styles from "./log.module.css";

const sources: Readonly<Record<LogSource, string>> = {
  console: "console",
  lifecycle: "lifecycle",
  refusal: "refusals",
  exec_stdout: "output",
  exec_stderr: "errors",
  agent: "agents",
};

/** Lines that the page keeps. */
const maxLines = 5000;
/** Lines within this time are shown at once. */
const gatherMs = 100;
const reopenMs = 2000;

type Numbered = LogLine & { readonly number: number };

/** Everything that a sandbox and its commands wrote, as it comes. */
export default function Log({ sandbox: { id } }: { readonly sandbox: SandboxInfo }): ReactNode {
  const client = useClient();
  const [lines, setLines] = useState<readonly Numbered[]>();
  const [error, setError] = useState<unknown>();
  const [hidden, setHidden] = useState<ReadonlySet<LogSource>>(new Set());
  const [text, setText] = useState("");
  const box = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);

  useEffect(() => {
    const stop = new AbortController();
    let number = 0;
    let fresh: Numbered[] = [];
    const show = (): void => {
      const added = fresh;
      fresh = [];
      setLines((before = []) => (added.length === 0 ? before : [...before, ...added].slice(-maxLines)));
    };
    const timer = setInterval(show, gatherMs);
    void (async () => {
      while (!stop.signal.aborted) {
        try {
          // The stream begins with the lines so far.
          setLines([]);
          for await (const line of client.logs.follow(id, { tail: 1000 }, stop.signal)) {
            fresh.push({ ...line, number: number++ });
          }
        } catch (failure) {
          if (stop.signal.aborted) return;
          setError(failure);
        }
        await new Promise((resolve) => setTimeout(resolve, reopenMs));
        fresh = [];
      }
    })();
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [client, id]);

  const wanted = text.trim().toLowerCase();
  const shown = lines?.filter(({ source, line }) => !hidden.has(source) && line.toLowerCase().includes(wanted));
  useEffect(() => {
    if (isAtEnd.current) box.current?.scrollTo({ top: box.current.scrollHeight });
  }, [shown?.length]);

  const toggle = (source: LogSource): void =>
    setHidden((before) =>
      before.has(source) ? before.difference(new Set([source])) : before.union(new Set([source])),
    );

  if (error !== undefined && (lines?.length ?? 0) === 0) return <Failure error={error} />;
  if (lines === undefined) return <Loading what="Reading the log" />;
  return (
    <section className={styles["log"]} aria-label="Log">
      <div className={styles["filters"]}>
        <input
          type="search"
          aria-label="Filter lines"
          placeholder="Filter lines"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        {(Object.keys(sources) as LogSource[]).map((source) => (
          <label key={source}>
            <input type="checkbox" checked={!hidden.has(source)} onChange={() => toggle(source)} />
            {sources[source]}
          </label>
        ))}
      </div>
      {shown?.length === 0 ? (
        <Empty title="No lines">
          <p>What the machine and its commands write appears here.</p>
        </Empty>
      ) : (
        <div
          ref={box}
          className={styles["lines"]}
          role="log"
          aria-label="Lines"
          // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the keyboard scrolls it
          tabIndex={0}
          onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
            isAtEnd.current = scrollHeight - scrollTop - clientHeight < 40;
          }}
        >
          {shown?.map(({ number, source, line, at, session }) => (
            <div key={number} className={styles["line"]} data-source={source}>
              <span className={styles["source"]} title={session?.argv.join(" ")}>
                {sources[source]}
              </span>
              <span title={at === undefined ? undefined : time(at)}>{line}</span>
            </div>
          ))}
        </div>
      )}
    </section>
  );
}
