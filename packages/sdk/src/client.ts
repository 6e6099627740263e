import { agentsClient } from "./clients/agents.ts";
import type { AgentsClient } from "./clients/agents.ts";
import { auditClient } from "./clients/organization/audit.ts";
import type { AuditClient } from "./clients/organization/audit.ts";
import { checkpointsClient } from "./clients/checkpoints.ts";
import type { CheckpointsClient } from "./clients/checkpoints.ts";
import { eventsClient } from "./clients/events.ts";
import type { EventsClient } from "./clients/events.ts";
import { execClient } from "./clients/exec.ts";
import type { ExecClient } from "./clients/exec.ts";
import { filesClient } from "./clients/files.ts";
import type { FilesClient } from "./clients/files.ts";
import { httpClient } from "./transport/http.ts";
import type { ApiKey } from "./transport/http.ts";
import { imagesClient } from "./clients/images.ts";
import type { ImagesClient } from "./clients/images.ts";
import { logsClient } from "./clients/logs.ts";
import type { LogsClient } from "./clients/logs.ts";
import { networkClient } from "./clients/network.ts";
import type { NetworkClient } from "./clients/network.ts";
import { portsClient } from "./clients/ports.ts";
import type { PortsClient } from "./clients/ports.ts";
import { previewsClient } from "./clients/previews.ts";
import type { PreviewsClient } from "./clients/previews.ts";
import { sandboxesClient } from "./clients/sandboxes.ts";
import type { SandboxesClient } from "./clients/sandboxes.ts";
import { secretsClient } from "./clients/secrets.ts";
import type { SecretsClient } from "./clients/secrets.ts";
import { sessionsClient } from "./clients/sessions.ts";
import type { SessionsClient } from "./clients/sessions.ts";
import { apiKeysClient } from "./clients/organization/api-keys.ts";
import type { ApiKeysClient } from "./clients/organization/api-keys.ts";
import { sshClient } from "./clients/organization/ssh.ts";
import type { SshClient } from "./clients/organization/ssh.ts";
import { workersClient } from "./clients/organization/workers.ts";
import type { WorkersClient } from "./clients/organization/workers.ts";
import { templatesClient } from "./clients/templates/templates.ts";
import type { TemplatesClient } from "./clients/templates/templates.ts";
import { usageClient } from "./clients/usage.ts";
import type { UsageClient } from "./clients/usage.ts";
import { webhooksClient } from "./clients/webhooks.ts";
import type { WebhooksClient } from "./clients/webhooks.ts";
import { openGlobalSocket } from "./transport/socket.ts";
import type { OpenSocket } from "./transport/socket.ts";

export interface ConnectOptions {
  /** The server's address, with or without a trailing `/api`. */
  readonly url: string;
  /**
   * The key of an organization, or a function that returns the key or the short-lived token for the next request. A
   * server without authentication needs none.
   */
  readonly apiKey?: ApiKey;
  /** Opens WebSockets. Default: the global `WebSocket`, which has no back-pressure. */
  readonly openSocket?: OpenSocket;
}

/**
 * Every operation of a server, by sandbox id. A failed call rejects with a `SandboxError`. Reads and creates are retried
 * after transient failures; all other calls are made once.
 */
export interface Client {
  readonly sandboxes: SandboxesClient;
  readonly checkpoints: CheckpointsClient;
  readonly images: ImagesClient;
  readonly templates: TemplatesClient;
  readonly files: FilesClient;
  readonly exec: ExecClient;
  readonly sessions: SessionsClient;
  readonly agents: AgentsClient;
  readonly ports: PortsClient;
  readonly previews: PreviewsClient;
  readonly network: NetworkClient;
  readonly events: EventsClient;
  readonly logs: LogsClient;
  readonly webhooks: WebhooksClient;
  readonly secrets: SecretsClient;
  readonly usage: UsageClient;
  readonly audit: AuditClient;
  readonly apiKeys: ApiKeysClient;
  readonly ssh: SshClient;
  readonly workers: WorkersClient;
}

/**
 * A client of the server at `url`. Sends nothing before the first call.
 *
 * @example
 * const client = connect({ url: "http://127.0.0.1:8080", apiKey: "osb_..." });
 * const { id } = await client.sandboxes.create({});
 * await client.exec.run(id, { cmd: "uname -a" });
 */
export function connect({ url, apiKey, openSocket = openGlobalSocket }: ConnectOptions): Client {
  const http = httpClient(url, apiKey);
  return {
    sandboxes: sandboxesClient(http),
    checkpoints: checkpointsClient(http),
    images: imagesClient(http),
    templates: templatesClient(http),
    files: filesClient(http),
    exec: execClient(http, openSocket),
    sessions: sessionsClient(http, openSocket),
    agents: agentsClient(http, openSocket),
    ports: portsClient(http, openSocket),
    previews: previewsClient(http),
    network: networkClient(http),
    events: eventsClient(http),
    logs: logsClient(http),
    webhooks: webhooksClient(http),
    secrets: secretsClient(http),
    usage: usageClient(http),
    audit: auditClient(http),
    apiKeys: apiKeysClient(http),
    ssh: sshClient(http),
    workers: workersClient(http),
  };
}
