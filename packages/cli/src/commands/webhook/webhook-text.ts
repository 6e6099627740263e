import type { Webhook } from "@opensandbox/sdk";

/** A webhook as text for people. */
export function webhookText({ id, name, url, eventTypes, sandboxId, enabled }: Webhook): string {
  return [
    `webhook: ${id}`,
    ...(name === undefined ? [] : [`name: ${name}`]),
    `url: ${url}`,
    `types: ${eventTypes.join(", ") || "all"}`,
    `sandbox: ${sandboxId ?? "all"}`,
    `enabled: ${enabled ? "yes" : "no"}`,
  ].join("\n");
}
