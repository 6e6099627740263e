import type { SandboxInfo } from "@opensandbox/sdk";
import type { ReactNode } from "react";
import { useActions } from "../sandboxes/actions.tsx";
import { useMay } from "../session/signed-in.tsx";
import { Button, Empty } from "../ui/controls.tsx";

interface AsleepProps {
  readonly sandbox: SandboxInfo;
  /** What needs a running sandbox. */
  readonly what: string;
}

/** In place of a view that needs a running sandbox: to look must not wake one. */
export function Asleep({ sandbox, what }: AsleepProps): ReactNode {
  const { run } = useActions();
  const mayWrite = useMay()("sandboxes:write");
  return (
    <Empty title={`The sandbox is ${sandbox.status}`}>
      <p>{what}</p>
      {sandbox.status === "hibernated" && mayWrite ? (
        <Button look="primary" onClick={() => run("wake", sandbox)}>
          Wake it
        </Button>
      ) : null}
    </Empty>
  );
}
