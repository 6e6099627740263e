import type { SandboxInfo } from "@opensandbox/sdk";
import { isSandboxError } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { lazy, type ReactNode, Suspense } from "react";
import { nameOf, useActions } from "../sandboxes/actions.tsx";
import { oneSandbox } from "../sandboxes/queries.ts";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Button, buttonClass, Empty, Failure, Loading, Mono, Note, State } from "../ui/controls.tsx";
import { mebibytes, time } from "../ui/format.ts";
import { Menu } from "../ui/menu.tsx";
import { useCurrentInView } from "../ui/use-current-in-view.ts";
import styles from "./sandbox.module.css";

/** A part of the page that is loaded when it is first shown. */
const views = {
  terminal: { title: "Terminal", content: lazy(() => import("./terminal/terminals.tsx")) },
  files: { title: "Files", content: lazy(() => import("./files/files.tsx")) },
  log: { title: "Log", content: lazy(() => import("./log.tsx")) },
  checkpoints: { title: "Checkpoints", content: lazy(() => import("./checkpoints/checkpoints.tsx")) },
  network: { title: "Network", content: lazy(() => import("./network.tsx")) },
  sessions: { title: "Sessions", content: lazy(() => import("./sessions.tsx")) },
  metrics: { title: "Metrics", content: lazy(() => import("./metrics/metrics.tsx")) },
  timeline: { title: "Timeline", content: lazy(() => import("./timeline.tsx")) },
  settings: { title: "Settings", content: lazy(() => import("./settings.tsx")) },
} as const;
type View = keyof typeof views;

export function SandboxPage(): ReactNode {
  const { id = "", view = "terminal" } = useParams({ strict: false });
  const client = useClient();
  const { data, error, refetch } = useQuery(oneSandbox(client, id));
  if (data !== undefined) return <Known sandbox={data} view={view in views ? (view as View) : "terminal"} />;
  return (
    <Page title={id}>
      {error === null ? <Loading what="Reading the sandbox" /> : null}
      {error === null || isSandboxError(error, "not_found") ? null : (
        <Failure error={error} onRetry={() => void refetch()} />
      )}
      {isSandboxError(error, "not_found") ? (
        <Empty title="There is no such sandbox">
          <Link to="/sandboxes">All sandboxes</Link>
        </Empty>
      ) : null}
    </Page>
  );
}

function Known({ sandbox, view }: { readonly sandbox: SandboxInfo; readonly view: View }): ReactNode {
  const { id, alias, status, image, vcpus, memoryMib, diskMib, createdAt, reason } = sandbox;
  const actions = useActions();
  const mayWrite = useMay()("sandboxes:write");
  const isBusy = actions.busy.has(id);
  const tabs = useCurrentInView(view);
  const { content: Content } = views[view];
  const main = (["hibernate", "wake", "checkpoint", "fork"] as const).filter((name) => actions.may(name, sandbox));
  return (
    <Page
      title={nameOf(sandbox)}
      lead={
        <>
          <State of={isBusy ? "pending" : status} />
          {alias === "" ? null : <Mono>{id}</Mono>}
          <span>{image}</span>
          <span>
            {vcpus} vCPU{vcpus === 1 ? "" : "s"}, {mebibytes(memoryMib)}, {mebibytes(diskMib)} disk
          </span>
          <span>since {time(createdAt)}</span>
        </>
      }
      actions={
        mayWrite ? (
          <>
            {main.map((name) => (
              <Button key={name} disabled={isBusy} onClick={() => actions.run(name, sandbox)}>
                {name.charAt(0).toUpperCase() + name.slice(1)}
              </Button>
            ))}
            <Menu label="More actions" entries={actions.entries(sandbox, ["reboot", "power-cycle", "kill"])} />
          </>
        ) : undefined
      }
    >
      <nav ref={tabs} className={styles["tabs"]} aria-label="Parts of the sandbox">
        {Object.entries(views).map(([name, { title }]) => (
          <Link
            key={name}
            to="/sandboxes/$id/$view"
            params={{ id, view: name }}
            className={styles["tab"]}
            activeProps={{ className: styles["active"] ?? "" }}
          >
            {title}
          </Link>
        ))}
      </nav>
      {reason === undefined ? null : <Note isWarning={status === "error"}>{reason}</Note>}
      {status === "stopped" ? (
        <Empty title="This sandbox is deleted">
          <Link className={buttonClass()} to="/sandboxes">
            All sandboxes
          </Link>
        </Empty>
      ) : (
        <Suspense fallback={<Loading what="Loading" />}>
          <Content key={id} sandbox={sandbox} />
        </Suspense>
      )}
      {actions.dialog}
    </Page>
  );
}
