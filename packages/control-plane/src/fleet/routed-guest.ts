import type { Guest } from "@opensandbox/wire/worker/guest.ts";

/** The guest that `find` finds anew for each call. */
export function routedGuest(find: () => Promise<Guest>): Guest {
  return {
    sessions: {
      create: async (...args) => (await find()).sessions.create(...args),
      run: async (...args) => (await find()).sessions.run(...args),
      attach: async (...args) => (await find()).sessions.attach(...args),
      list: async (...args) => (await find()).sessions.list(...args),
      wait: async (...args) => (await find()).sessions.wait(...args),
      signal: async (...args) => (await find()).sessions.signal(...args),
      resize: async (...args) => (await find()).sessions.resize(...args),
      remove: async (...args) => (await find()).sessions.remove(...args),
    },
    files: {
      read: async (...args) => (await find()).files.read(...args),
      write: async (...args) => (await find()).files.write(...args),
      stat: async (...args) => (await find()).files.stat(...args),
      list: async (...args) => (await find()).files.list(...args),
      makeDirectory: async (...args) => (await find()).files.makeDirectory(...args),
      remove: async (...args) => (await find()).files.remove(...args),
      rename: async (...args) => (await find()).files.rename(...args),
      setAttributes: async (...args) => (await find()).files.setAttributes(...args),
      watch: async (...args) => (await find()).files.watch(...args),
      sync: async (...args) => (await find()).files.sync(...args),
    },
    ports: { open: async (...args) => (await find()).ports.open(...args) },
  };
}
