import { type ReactNode, useEffect } from "react";
import styles from "./shell.module.css";

interface PageProps {
  readonly title: string;
  /** Below the title. */
  readonly lead?: ReactNode;
  readonly actions?: ReactNode;
  readonly children: ReactNode;
}

/** A page with its heading, which is the title of the window too. */
export function Page({ title, lead, actions, children }: PageProps): ReactNode {
  useEffect(() => {
    document.title = `${title} · OpenSandbox`;
  }, [title]);
  return (
    <div className={styles["page"]}>
      <header className={styles["pageHead"]}>
        <div className={styles["pageTitle"]}>
          <h1>{title}</h1>
          {lead === undefined ? null : <div className={styles["lead"]}>{lead}</div>}
        </div>
        {actions === undefined ? null : <div className={styles["pageActions"]}>{actions}</div>}
      </header>
      {children}
    </div>
  );
}
