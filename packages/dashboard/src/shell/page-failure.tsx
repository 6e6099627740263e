import { Link } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { Empty, Failure } from "../ui/controls.tsx";
import { Page } from "./page.tsx";

/** Replaces a page that failed; the rest of the dashboard keeps working. */
export function PageFailure({ error, reset }: { readonly error: unknown; readonly reset: () => void }): ReactNode {
  return (
    <Page title="This page failed">
      <Failure error={error} onRetry={reset} />
    </Page>
  );
}

export function NotFound(): ReactNode {
  return (
    <Page title="Not found">
      <Empty title="There is no such page">
        <Link to="/sandboxes">All sandboxes</Link>
      </Empty>
    </Page>
  );
}
