import { once } from "node:events";
import type { ClientRequest, IncomingMessage } from "node:http";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/** The head of the answer to a request. Ten minutes: the request may wake a sandbox on a crowded host without KVM. */
export async function answerOf(request: ClientRequest): Promise<IncomingMessage> {
  const [response] = await within(
    `${request.method} ${request.path} is answered`,
    once(request, "response") as Promise<[IncomingMessage]>,
    600_000,
  );
  return response;
}
