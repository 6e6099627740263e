import {
  createPreview,
  deletePreview,
  listPreviews,
  type PreviewReply,
  rotatePreviewToken,
} from "@opensandbox/wire/public/guests/previews.ts";
import type { HttpClient } from "#transport/http.ts";

/** A port of a sandbox that has been given a name. Ports without one are served as well. */
export interface Preview {
  readonly port: number;
  readonly hostname: string;
  /** A host name of yours that leads there too. */
  readonly customHostname?: string;
  readonly createdAt: string;
}

export interface CreatePreview {
  readonly port: number;
  /** A host name of yours; it must lead to the server. */
  readonly domain?: string;
}

export interface PreviewsClient {
  /** The one that is there for the port already stays as it is. */
  create(sandboxId: string, request: CreatePreview, signal?: AbortSignal): Promise<Preview>;
  list(sandboxId: string, signal?: AbortSignal): Promise<readonly Preview[]>;
  delete(sandboxId: string, port: number, signal?: AbortSignal): Promise<void>;
  /** From now on previews of the sandbox need the token that is returned, and the one before is good no more. */
  rotateToken(sandboxId: string, signal?: AbortSignal): Promise<string>;
}

export function previewsClient(http: HttpClient): PreviewsClient {
  return {
    async create(id, { port, domain }, signal) {
      const body = { port, ...(domain === undefined ? {} : { domain }) };
      return previewOf(await http.call(createPreview, { parameters: { id }, body }, signal));
    },
    async list(id, signal) {
      return (await http.call(listPreviews, { parameters: { id } }, signal)).map(previewOf);
    },
    async delete(id, port, signal) {
      await http.call(deletePreview, { parameters: { id, port: String(port) } }, signal);
    },
    async rotateToken(id, signal) {
      return (await http.call(rotatePreviewToken, { parameters: { id } }, signal)).previewAuthToken;
    },
  };
}

function previewOf({ port, hostname, customHostname, createdAt }: PreviewReply): Preview {
  return { port, hostname, ...(customHostname === undefined ? {} : { customHostname }), createdAt };
}
