import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { ServerAddress } from "./find-server-address.ts";

/** Advice for an error of the connection to `address`. Undefined for any other error. */
export function connectionAdvice(error: unknown, { url, apiKey }: ServerAddress, program: string): string | undefined {
  if (isSandboxError(error, "unauthenticated")) {
    return apiKey === undefined
      ? `${url.value} requires a key: set OPENSANDBOX_API_KEY, or store the key with '${program} config set api-key -'.`
      : `The key comes from ${apiKey.from}. '${program} up' prints the key of the server that it starts.`;
  }
  // `fetch` throws a TypeError when it cannot connect.
  if (isSandboxError(error, "unavailable") && error.cause instanceof TypeError) {
    return `The address comes from ${url.from}. Check that a server runs there.`;
  }
  return undefined;
}
