import {
  createPreview,
  deletePreview,
  listPreviews,
  type PreviewReply,
  rotatePreviewToken,
} from "@opensandbox/wire/public/guests/previews.ts";
import type { HttpClient } from "#transport/http.ts";

/** The DNS record that proves a custom host name. */
export interface DomainVerification {
  readonly status: "pending" | "verified";
  readonly type: "TXT";
  readonly name: string;
  readonly value: string;
  /** When the record was last found. */
  readonly verifiedAt?: string | undefined;
}

/** A port of a sandbox with a host name. Ports without one are served too. */
export interface Preview {
  readonly port: number;
  readonly hostname: string;
  /** A host name of your own that serves the same port. */
  readonly customHostname?: string;
  /** Absent: the server requires no proof of the custom host name. */
  readonly domainVerification?: DomainVerification;
  readonly createdAt: string;
}

export interface CreatePreview {
  readonly port: number;
  /** A host name of your own that points to the server. A TXT record proves it: the error of the first attempt names it. */
  readonly domain?: string;
}

export interface PreviewsClient {
  /** Names a port. An existing name of the port stays unchanged. */
  create(sandboxId: string, request: CreatePreview, signal?: AbortSignal): Promise<Preview>;
  list(sandboxId: string, signal?: AbortSignal): Promise<readonly Preview[]>;
  delete(sandboxId: string, port: number, signal?: AbortSignal): Promise<void>;
  /** Replaces the token that previews of the sandbox require, and returns the new one. */
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

function previewOf({ port, hostname, customHostname, domainVerification, createdAt }: PreviewReply): Preview {
  return {
    ...{ port, hostname, createdAt },
    ...(customHostname === undefined ? {} : { customHostname }),
    ...(domainVerification === undefined ? {} : { domainVerification }),
  };
}
