import { Link, Outlet, useLocation } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { useMay, useSession } from "../session/signed-in.tsx";
import { IconButton } from "../ui/controls.tsx";
import { Icon } from "../ui/icons.tsx";
import { useNotify } from "../ui/toasts.tsx";
import { useCurrentInView } from "../ui/use-current-in-view.ts";
import { useLive } from "./live.ts";
import { pages } from "./pages.ts";
import { Shortcuts } from "./shortcuts.tsx";
import { chosenTheme, storeTheme } from "./theme.ts";
import styles from "./shell.module.css";

/** The frame around every page: navigation, the state of the connection, theme and sign-out. */
export function Shell(): ReactNode {
  const { facts, signOut } = useSession();
  const may = useMay();
  const notify = useNotify();
  const isConnected = useLive();
  const links = useCurrentInView(useLocation().pathname);
  return (
    <div className={styles["shell"]}>
      <a className={styles["skip"]} href="#content">
        Skip to the content
      </a>
      <header className={styles["side"]}>
        <Link to="/sandboxes" className={styles["brand"]}>
          <span className={styles["mark"]} aria-hidden />
          OpenSandbox
        </Link>
        <nav ref={links} className={styles["nav"]} aria-label="Main">
          {pages
            .filter(({ scope }) => may(scope))
            .map(({ to, label, icon }) => (
              <Link key={to} to={to} className={styles["link"]} activeProps={{ className: styles["active"] ?? "" }}>
                <Icon name={icon} />
                <span>{label}</span>
              </Link>
            ))}
        </nav>
        <div className={styles["foot"]}>
          <div className={styles["who"]}>
            <strong title={facts.organization.id}>{facts.organization.name}</strong>
            <span title={facts.actor}>{facts.actor.replace(/, in the dashboard$/, "")}</span>
          </div>
          <div className={styles["tools"]}>
            <Shortcuts />
            <ThemeButton />
            <IconButton
              label="Sign out"
              onClick={() => {
                signOut().catch(notify.failed);
              }}
            >
              <Icon name="signOut" />
            </IconButton>
          </div>
        </div>
      </header>
      <main id="content" className={styles["main"]} tabIndex={-1}>
        {isConnected ? null : (
          <div className={styles["offline"]} role="status">
            The server does not answer. What is shown may be old; the page reconnects by itself.
          </div>
        )}
        <Outlet />
      </main>
    </div>
  );
}

function ThemeButton(): ReactNode {
  const [theme, setTheme] = useState(chosenTheme);
  const other = theme === "dark" ? "light" : "dark";
  return (
    <IconButton
      label={`Use the ${other} theme`}
      onClick={() => {
        storeTheme(other);
        setTheme(other);
      }}
    >
      <Icon name={other === "dark" ? "moon" : "sun"} />
    </IconButton>
  );
}
