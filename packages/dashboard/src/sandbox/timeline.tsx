import type { SandboxEvent, SandboxInfo } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Empty, Failure, Loading } from "../ui/controls.tsx";
import { mebibytes, time } from "../ui/format.ts";
import styles from "./timeline.module.css";

const maxEvents = 200;

/** What happened to a sandbox, newest first. */
export default function Timeline({ sandbox: { id } }: { readonly sandbox: SandboxInfo }): ReactNode {
  const client = useClient();
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", id, "events"],
    queryFn: ({ signal }) => client.events.list({ sandboxId: id, limit: maxEvents }, signal),
  });
  if (error !== null) return <Failure error={error} onRetry={() => void refetch()} />;
  if (data === undefined) return <Loading what="Reading the events" />;
  if (data.events.length === 0) return <Empty title="Nothing has happened" />;
  return (
    <ol className={styles["timeline"]}>
      {data.events.toReversed().map((event) => (
        <li key={event.id} data-type={event.type}>
          <span>{sentenceOf(event)}</span>
          <time dateTime={event.at}>{time(event.at)}</time>
        </li>
      ))}
    </ol>
  );
}

function sentenceOf({ type, data }: SandboxEvent): string {
  const text = (name: string): string => String(data[name]);
  switch (type) {
    case "sandbox.created":
      return `Created from the image ${text("template")}`;
    case "sandbox.ready":
      return "Ready for commands";
    case "sandbox.hibernated":
      return "Hibernated: memory and processes are on disk";
    case "sandbox.resumed":
      return "Woken";
    case "sandbox.stopped":
      return (
        { user_requested: "Killed", expired: "Ended by its timeout", crash: "Ended by itself" }[text("reason")] ??
        "Stopped"
      );
    case "sandbox.migrated":
      return "Moved to another worker";
    case "sandbox.checkpoint.created":
      return `Checkpoint ${text("checkpointId")} is ready`;
    case "sandbox.forked":
      return `Forked from ${text("parentId")}`;
    case "sandbox.scaled":
      return `Scaled to ${mebibytes(Number(data["memoryMB"]))} and ${text("cpuCount")} vCPUs`;
    case "sandbox.preview_url.changed":
      return data["url"] === null
        ? `Port ${text("port")} has no preview any more`
        : `Port ${text("port")} is at ${text("url")}`;
    case "sandbox.test":
      return "A test of a webhook";
  }
}
