import { z } from "zod";
import { normalName } from "../../egress.ts";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";

const portRule = "port must be between 1 and 65535";
export const port = z.number({ error: portRule }).int(portRule).min(1, portRule).max(65_535, portRule);

const tokenRule = 'previewAuth.token must be "auto" or have at least 16 characters';

/** Asked for at create. */
export const PreviewAuth = z
  .object({
    scheme: z.literal("bearer", 'previewAuth.scheme must be "bearer"').optional(),
    token: z
      .string(tokenRule)
      .refine((token) => token === "auto" || token.length >= 16, tokenRule)
      .refine((token) => /^[\x21-\x7e]*$/.test(token), "previewAuth.token must have visible ASCII characters only")
      .optional(),
  })
  .meta({ id: "PreviewAuth", description: "Requests to any port of it need this token." });
export type PreviewAuth = z.infer<typeof PreviewAuth>;

const CreatePreviewBody = z
  .object({
    port,
    domain: z
      .string()
      .optional()
      .meta({ description: "A host name of yours that leads here, in place of the usual one." }),
    authConfig: z
      .record(z.string(), z.unknown())
      .refine((config) => Object.keys(config).length === 0, "authConfig is not there: use previewAuth of the sandbox")
      .optional(),
  })
  .meta({ id: "CreatePreview" });
type CreatePreviewBody = z.infer<typeof CreatePreviewBody>;

export const PreviewReply = z
  .object({
    id: z.string(),
    sandboxId: z.string(),
    orgId: z.string(),
    hostname: z.string(),
    customHostname: z.string().optional(),
    port: z.int(),
    sslStatus: z.string(),
    authConfig: z.record(z.string(), z.unknown()),
    createdAt: z.iso.datetime(),
  })
  .meta({ id: "Preview" });
export type PreviewReply = z.infer<typeof PreviewReply>;

export const createPreview: Route<CreatePreviewBody, unknown, PreviewReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/preview",
  name: "createPreview",
  summary: "Name a port of a sandbox as a preview URL",
  description:
    "Every port is reached at {sandboxID}-pPORT.{sandboxDomain} without this; it keeps a list and custom domains.",
  access: "key",
  body: CreatePreviewBody,
  status: 201,
  reply: PreviewReply,
  otherReplies: { 200: { description: "It was there already.", reply: PreviewReply } },
};

export const listPreviews: Route<unknown, unknown, PreviewReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/preview",
  name: "listPreviews",
  summary: "List a sandbox's preview URLs",
  access: "key",
  status: 200,
  reply: z.array(PreviewReply),
};

export const deletePreview: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id/preview/:port",
  name: "deletePreview",
  summary: "Forget a preview URL",
  access: "key",
  status: 204,
};

const RotateReply = z
  .object({ previewAuthToken: z.string(), scheme: z.literal("bearer") })
  .meta({ id: "PreviewToken" });

export const rotatePreviewToken: Route<unknown, unknown, z.infer<typeof RotateReply>> = {
  method: "POST",
  path: "/api/sandboxes/:id/preview/rotate",
  name: "rotatePreviewToken",
  summary: "Give a sandbox's previews another token; the one before is good no more",
  description: "From then on requests need it, also where they needed none.",
  access: "key",
  status: 200,
  reply: RotateReply,
};

/** The port of a path. @throws `not_found` for what is no port, which no preview URL has */
export function portFrom(text: string): number {
  if (/^[1-9]\d{0,4}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw noPreview(text);
}

export function noPreview(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "no preview URL for this port", { resource: "preview URL", id });
}

/** A domain of the caller's, in the one form that it is compared in. @throws `invalid_argument` */
export function customHostnameFrom(domain: string, sandboxDomain: string): string {
  const name = normalName(domain.trim());
  if (name === undefined || !name.includes(".") || name.endsWith(".localhost")) {
    throw new SandboxError("invalid_argument", `domain: "${domain}" is no host name of yours`);
  }
  if (name === sandboxDomain || name.endsWith(`.${sandboxDomain}`)) {
    throw new SandboxError("invalid_argument", `domain: names below ${sandboxDomain} are given by the server`);
  }
  return name;
}

/** Where a port of a sandbox is served. */
export function previewHostname(sandboxId: string, port: number, sandboxDomain: string): string {
  return `${sandboxId}-p${port}.${sandboxDomain}`;
}

/** What the control plane knows of a preview URL. */
interface PreviewToShow {
  readonly id: string;
  readonly sandboxId: string;
  readonly organizationId: string;
  readonly port: number;
  readonly customHostname?: string | undefined;
  readonly createdAt: Date;
}

export function previewReplyOf(preview: PreviewToShow, sandboxDomain: string): PreviewReply {
  const { id, sandboxId, organizationId, port, customHostname, createdAt } = preview;
  return {
    id,
    sandboxId,
    orgId: organizationId,
    hostname: previewHostname(sandboxId, port, sandboxDomain),
    ...(customHostname === undefined ? {} : { customHostname }),
    port,
    sslStatus: "active",
    authConfig: {},
    createdAt: createdAt.toISOString(),
  };
}
