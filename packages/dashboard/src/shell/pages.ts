import type { IconName } from "../ui/icons.tsx";

interface PageEntry {
  readonly to:
    | "/sandboxes"
    | "/images"
    | "/ready-machines"
    | "/workers"
    | "/secrets"
    | "/webhooks"
    | "/keys"
    | "/usage"
    | "/audit";
  readonly label: string;
  readonly icon: IconName;
  /** The scope that the page needs. A session without it does not see the page. */
  readonly scope: string;
  /** The key that leads there, after `g`. */
  readonly key: string;
}

export const pages: readonly PageEntry[] = [
  { to: "/sandboxes", label: "Sandboxes", icon: "sandboxes", scope: "sandboxes:read", key: "s" },
  { to: "/images", label: "Images", icon: "images", scope: "images:read", key: "i" },
  { to: "/ready-machines", label: "Ready machines", icon: "host", scope: "sandboxes:read", key: "r" },
  { to: "/workers", label: "Workers", icon: "workers", scope: "admin:read", key: "o" },
  { to: "/secrets", label: "Secrets", icon: "secrets", scope: "secrets:read", key: "e" },
  { to: "/webhooks", label: "Webhooks", icon: "webhooks", scope: "admin:read", key: "w" },
  { to: "/keys", label: "API keys", icon: "keys", scope: "admin:read", key: "k" },
  { to: "/usage", label: "Usage", icon: "usage", scope: "admin:read", key: "u" },
  { to: "/audit", label: "Audit log", icon: "audit", scope: "admin:read", key: "a" },
];
