import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Button, Failure, Spinner } from "../ui/controls.tsx";
import { Icon } from "../ui/icons.tsx";
import { showSandbox } from "./queries.ts";
import styles from "./sandboxes.module.css";

/** Shown while there is no sandbox: one button leads to a machine with a command in its terminal. */
export function FirstRun(): ReactNode {
  const client = useClient();
  const may = useMay();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [step, setStep] = useState<string>();
  const [error, setError] = useState<unknown>();

  async function start(): Promise<void> {
    setError(undefined);
    setStep("Starting a machine");
    try {
      const sandbox = await client.sandboxes.create({ alias: "my first sandbox" }, { onProgress: setStep });
      showSandbox(queries, sandbox);
      await navigate({
        to: "/sandboxes/$id/$view",
        params: { id: sandbox.id, view: "terminal" },
        search: { try: "1" },
      });
    } catch (failure) {
      setError(failure);
    } finally {
      setStep(undefined);
    }
  }

  return (
    <section className={styles["first"]}>
      <h2>A machine of its own for every task</h2>
      <p>
        A sandbox is a Linux machine with its own kernel, disk and network. It starts in moments, sleeps with its memory
        when nobody uses it, and can be copied while it runs.
      </p>
      {may("sandboxes:write") ? (
        <Button look="primary" disabled={step !== undefined} onClick={() => void start()}>
          {step === undefined ? <Icon name="play" /> : <Spinner />}
          {step ?? "Start the first sandbox"}
        </Button>
      ) : null}
      {error === undefined ? null : <Failure error={error} />}
      <ol>
        <li>A machine starts from the default image.</li>
        <li>Its terminal opens here, with a first command to try.</li>
        <li>Hibernate it, wake it, or fork it: nothing is lost.</li>
      </ol>
    </section>
  );
}
