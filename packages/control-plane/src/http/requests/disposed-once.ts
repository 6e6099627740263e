import type { Use } from "#lifecycle/activity.ts";

/** The use, which may be disposed before its call ends: a second disposal does nothing. */
export function disposedOnce(use: Use): Use {
  let held = true;
  return {
    touch: () => use.touch(),
    [Symbol.dispose]: () => {
      if (held) use[Symbol.dispose]();
      held = false;
    },
  };
}
