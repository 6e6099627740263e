import { type AttachedSession, type Client, isSandboxError } from "@opensandbox/sdk";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal as Screen } from "@xterm/xterm";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { useClient } from "../../session/signed-in.tsx";
import { withAdoptedStyles } from "../../ui/style-elements.ts";
import styles from "../sandbox.module.css";
import "@xterm/xterm/css/xterm.css";

interface TerminalProps {
  readonly sandboxId: string;
  readonly sessionId: string;
  /** Called when the program has ended. */
  readonly onEnd: (sessionId: string) => void;
}

const theme = {
  ...{ background: "#0d1110", foreground: "#d8dfdb", cursor: "#56d3a6", selectionBackground: "#2f4a40" },
  ...{ black: "#1c2220", red: "#f0837a", green: "#6fd08c", yellow: "#e5c07b" },
  ...{ blue: "#7aa2f7", magenta: "#c792ea", cyan: "#6cc7d0", white: "#d8dfdb" },
  ...{ brightBlack: "#76827c", brightRed: "#ffa198", brightGreen: "#93e5ab", brightYellow: "#f4d696" },
  ...{ brightBlue: "#a3bffa", brightMagenta: "#ddb6f6", brightCyan: "#9be2e9", brightWhite: "#ffffff" },
};

const reconnectMs = 1000;
/** Keys that are kept for a lost connection. */
const maxWaiting = 10_000;

/** The terminal of a session. After a lost connection it attaches again, and shows what was printed meanwhile. */
export function Terminal({ sandboxId, sessionId, onEnd }: TerminalProps): ReactNode {
  const client = useClient();
  const place = useRef<HTMLDivElement>(null);
  const [isLost, setLost] = useState(false);

  useEffect(() => {
    const opened = place.current;
    if (opened === null) return undefined;
    const stop = new AbortController();
    const screen = new Screen({
      theme,
      cursorBlink: true,
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"),
      fontSize: 13,
      scrollback: 10_000,
      screenReaderMode: true,
    });
    const fit = new FitAddon();
    screen.loadAddon(fit);
    withAdoptedStyles(() => screen.open(opened));
    screen.focus();

    let attached: AttachedSession | undefined;
    /** What is typed while there is no connection. */
    let waiting: Uint8Array[] = [];
    const encoder = new TextEncoder();
    const send = (bytes: Uint8Array): void => {
      if (attached === undefined) {
        if (waiting.length < maxWaiting) waiting.push(bytes);
        return;
      }
      // A connection that breaks now is noticed by its reader.
      attached.write(bytes).catch(() => undefined);
    };
    screen.onData((text) => send(encoder.encode(text)));
    screen.onBinary((text) => send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    const resize = (): void => {
      fit.fit();
      const { cols: columns, rows } = screen;
      // The next change of the size makes up for a failed one.
      client.sessions.resize(sandboxId, sessionId, { columns, rows }, stop.signal).catch(() => undefined);
    };
    let settling: ReturnType<typeof setTimeout> | undefined;
    const observer = new ResizeObserver(() => {
      clearTimeout(settling);
      settling = setTimeout(resize, 80);
    });
    observer.observe(opened);

    void keepAttached({ client, sandboxId, sessionId }, screen, stop.signal, (current) => {
      attached = current;
      if (current === undefined) return setLost(!stop.signal.aborted);
      for (const bytes of waiting) send(bytes);
      waiting = [];
      setLost(false);
    }).then((end) => {
      if (end === "ended") onEnd(sessionId);
    });
    return () => {
      stop.abort();
      clearTimeout(settling);
      observer.disconnect();
      attached?.detach();
      screen.dispose();
    };
  }, [client, sandboxId, sessionId, onEnd]);

  return (
    <div className={styles["screen"]}>
      <div ref={place} />
      {isLost ? (
        <div className={styles["lost"]} role="status">
          The connection is lost; connecting again
        </div>
      ) : null}
    </div>
  );
}

interface Session {
  readonly client: Client;
  readonly sandboxId: string;
  readonly sessionId: string;
}

/** Writes a session's output to the screen until the program or the signal ends. */
async function keepAttached(
  { client, sandboxId, sessionId }: Session,
  screen: Screen,
  signal: AbortSignal,
  onChange: (attached: AttachedSession | undefined) => void,
): Promise<"ended" | "stopped"> {
  while (!signal.aborted) {
    try {
      const attached = await client.sessions.attach(sandboxId, sessionId, signal);
      onChange(attached);
      // The session sends its kept output first.
      screen.reset();
      for await (const { bytes } of attached.output) await written(screen, bytes);
      return "ended";
    } catch (error) {
      if (signal.aborted) break;
      onChange(undefined);
      const isOver = isSandboxError(error, "not_found") || (await hasEnded({ client, sandboxId, sessionId }));
      if (isOver) return "ended";
      await new Promise((resolve) => setTimeout(resolve, reconnectMs));
    }
  }
  return "stopped";
}

/** Browsers do not tell why a WebSocket was refused, so the list of sessions answers it. */
async function hasEnded({ client, sandboxId, sessionId }: Session): Promise<boolean> {
  try {
    const sessions = await client.sessions.list(sandboxId);
    return !sessions.some(({ id, running }) => id === sessionId && running);
  } catch (error) {
    return isSandboxError(error, "not_found");
  }
}

/** Resolves when the terminal has taken the bytes, so that a fast program does not fill the memory. */
async function written(screen: Screen, bytes: Uint8Array): Promise<void> {
  await new Promise<void>((resolve) => screen.write(bytes, resolve));
}
