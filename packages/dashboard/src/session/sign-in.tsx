import { type FormEvent, type ReactNode, useState } from "react";
import { Button, Failure, TextField } from "../ui/controls.tsx";
import { signIn } from "./session.ts";
import styles from "./sign-in.module.css";

interface SignInProps {
  /** Why the link that opened the page did not sign in. */
  readonly reason: unknown;
  readonly onSignedIn: () => Promise<void>;
}

export function SignIn({ reason, onSignedIn }: SignInProps): ReactNode {
  const [apiKey, setApiKey] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(reason);

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await signIn({ apiKey: apiKey.trim() });
      await onSignedIn();
    } catch (refused) {
      setError(refused);
      setBusy(false);
    }
  }

  return (
    <main className={styles["page"]}>
      <form className={styles["card"]} onSubmit={(event) => void submit(event)}>
        <div className={styles["mark"]} aria-hidden />
        <h1>Sign in to OpenSandbox</h1>
        <p className={styles["lead"]}>A real Linux machine for every agent, on this server.</p>
        {error === undefined ? null : <Failure error={error} />}
        <TextField
          label="API key"
          hint="The server printed it when it started, and osb admin key create makes others. It is exchanged for a session and not kept in this browser."
          type="password"
          autoComplete="current-password"
          required
          value={apiKey}
          onChange={(event) => setApiKey(event.target.value)}
        />
        <Button look="primary" type="submit" disabled={isBusy || apiKey.trim() === ""}>
          {isBusy ? "Signing in…" : "Sign in"}
        </Button>
      </form>
    </main>
  );
}
