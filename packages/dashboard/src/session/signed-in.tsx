import type { Client } from "@opensandbox/sdk";
import type { SessionToken } from "@opensandbox/wire/dashboard.ts";
import { useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { Failure, Loading } from "../ui/controls.tsx";
import { clientOf, fetchToken, mayHaveSession, signIn, signOut } from "./session.ts";
import { SignIn } from "./sign-in.tsx";
import styles from "./sign-in.module.css";

interface Session {
  readonly client: Client;
  readonly facts: SessionToken;
  readonly signOut: () => Promise<void>;
}

const Current = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(Current);
  if (session === undefined) throw new Error("useSession is called outside of SignedIn");
  return session;
}

export function useClient(): Client {
  return useSession().client;
}

/** Whether the session may use a part of the API, such as `images:read`. */
export function useMay(): (scope: string) => boolean {
  const { scopes } = useSession().facts;
  return (scope) => scopes.includes(scope) || scopes.includes(scope.replace(":read", ":write"));
}

type Found = "looking" | "signed out" | { readonly failed: unknown } | SessionToken;

/** Shows its children once there is a session, and the sign-in page before. */
export function SignedIn({ children }: { readonly children: ReactNode }): ReactNode {
  const queries = useQueryClient();
  const [found, setFound] = useState<Found>("looking");
  const [refused, setRefused] = useState<unknown>();

  useEffect(() => {
    void restore().then(setFound, (failed: unknown) => setFound({ failed }));
    async function restore(): Promise<Found> {
      const code = takeLink();
      // The code works once, so a page that is loaded twice in a row keeps the session of the first.
      if (code !== undefined) await signIn({ link: code }).catch(setRefused);
      if (!mayHaveSession()) return "signed out";
      return (await fetchToken()) ?? "signed out";
    }
  }, []);

  const session = useMemo<Session | undefined>(() => {
    if (typeof found === "string" || "failed" in found) return undefined;
    const leave = (): void => {
      queries.clear();
      setFound("signed out");
    };
    return {
      client: clientOf(found, leave),
      facts: found,
      async signOut() {
        await signOut();
        leave();
      },
    };
  }, [found, queries]);

  if (session !== undefined) return <Current value={session}>{children}</Current>;
  if (found === "signed out") {
    return <SignIn reason={refused} onSignedIn={async () => setFound((await fetchToken()) ?? "signed out")} />;
  }
  return (
    <main className={styles["page"]}>
      {found === "looking" ? (
        <Loading what="Opening the dashboard" />
      ) : (
        <Failure
          error={typeof found === "object" && "failed" in found ? found.failed : found}
          onRetry={() => location.reload()}
        />
      )}
    </main>
  );
}

/** The code in the page's address, which is removed from it. */
function takeLink(): string | undefined {
  const code = /^#sign-in=([\w-]+)$/.exec(location.hash)?.[1];
  if (code !== undefined) history.replaceState(null, "", location.pathname + location.search);
  return code;
}
