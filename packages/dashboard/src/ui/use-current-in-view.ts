import { type RefObject, useEffect, useRef } from "react";

/** Scrolls the link of the current page into view, in a row of links that is wider than the page. */
export function useCurrentInView(page: string): RefObject<HTMLElement | null> {
  const links = useRef<HTMLElement>(null);
  useEffect(() => {
    const current = links.current?.querySelector("[aria-current=page]");
    current?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [page]);
  return links;
}
