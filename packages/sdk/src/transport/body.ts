import { translate } from "./http.ts";

/** A reply's body as it arrives. Leaving the iteration early ends the transfer. */
export async function* bytesOf(response: Response, signal?: AbortSignal): AsyncGenerator<Uint8Array, void> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  try {
    while (true) {
      const { done, value } = await translate(new URL(response.url).origin, signal, async () => await reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
