import type { ReactNode } from "react";

const paths = {
  sandboxes: "M4 7.5 12 3l8 4.500v9L12 21l-8-4.500zM4 7.500l8 4.500m0 0 8-4.500M12 12v9",
  images: "M4 5h16v14H4zM4 15l5-5 4 4 3-3 4 4",
  host: "M4 5h16v6H4zM4 13h16v6H4zM7.5 8h.01M7.5 16h.01",
  workers: "M5 5h6v6H5zM13 13h6v6h-6zM13 5h6v6h-6zM5 13h6v6H5z",
  usage: "M4 20V10m5.3 10V4m5.4 16v-7M20 20V7",
  audit: "M6 3h12v18H6zM9 8h6M9 12h6M9 16h3",
  webhooks: "M7 17a4 4 0 1 1 3.5-6M17 17a4 4 0 1 0-3.5-6M9 17h6M12 9V4",
  secrets: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3",
  keys: "M8 9.500a4 4 0 1 1 0 5 4 4 0 0 1 0-5zM14.500 12H21v3M18 12v2.500",
  plus: "M12 5v14M5 12h14",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  close: "M6 6l12 12M18 6 6 18",
  sun: "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.4 1.400M17.6 17.6 19 19M19 5l-1.4 1.400M6.4 17.6 5 19",
  moon: "M20 14.500A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.500z",
  signOut: "M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9",
  keyboard: "M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M8 14h8",
  search: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM20 20l-4.9-4.9",
  folder: "M3 6h6l2 2h10v11H3z",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  upload: "M12 16V5m-4 4 4-4 4 4M5 19h14",
  download: "M12 5v11m-4-4 4 4 4-4M5 19h14",
  play: "M7 5l12 7-12 7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  back: "M15 5l-7 7 7 7",
} as const;

export type IconName = keyof typeof paths;

/** A drawing beside a text or inside a labelled button, so it has no name of its own. */
export function Icon({ name }: { readonly name: IconName }): ReactNode {
  const isDots = name === "more";
  return (
    <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden focusable="false">
      <path
        d={paths[name]}
        fill="none"
        stroke="currentColor"
        strokeWidth={isDots ? 2.6 : 1.7}
        strokeLinecap="round"
        strokeLinejoin="round"
      />
    </svg>
  );
}
