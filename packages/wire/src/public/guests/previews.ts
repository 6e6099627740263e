import { z } from "zod";
import { normalName } from "../../egress.ts";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";

const portRule = "port must be between 1 and 65535";
export const port = z.number({ error: portRule }).int(portRule).min(1, portRule).max(65_535, portRule);

const tokenRule = 'previewAuth.token must be "auto" or have at least 16 characters';

/** The preview token that a create asks for. */
export const PreviewAuth = z
  .object({
    scheme: z.literal("bearer", 'previewAuth.scheme must be "bearer"').optional(),
    token: z
      .string(tokenRule)
      .refine((token) => token === "auto" || token.length >= 16, tokenRule)
      .refine((token) => /^[\x21-\x7e]*$/.test(token), "previewAuth.token must have visible ASCII characters only")
      .optional(),
  })
  .meta({ id: "PreviewAuth", description: "Requests to any port of the sandbox require this token." });
export type PreviewAuth = z.infer<typeof PreviewAuth>;

const CreatePreviewBody = z
  .object({
    port,
    domain: z
      .string()
      .optional()
      .meta({
        description:
          "Your own host name for the port, beside the generated one. It must point at the server, and a TXT record " +
          "must prove that it is yours: the error of the first attempt names the record.",
      }),
    authConfig: z
      .record(z.string(), z.unknown())
      .refine(
        (config) => Object.keys(config).length === 0,
        "authConfig is not supported: use previewAuth of the sandbox",
      )
      .optional(),
  })
  .meta({ id: "CreatePreview" });
type CreatePreviewBody = z.infer<typeof CreatePreviewBody>;

const DomainVerification = z
  .object({
    status: z.enum(["verified", "pending"]),
    type: z.literal("TXT"),
    name: z.string(),
    value: z.string(),
    verifiedAt: z.iso.datetime().optional(),
  })
  .meta({ id: "DomainVerification", description: "The DNS record that proves the custom domain." });

export const PreviewReply = z
  .object({
    id: z.string(),
    sandboxId: z.string(),
    orgId: z.string(),
    hostname: z.string(),
    customHostname: z.string().optional(),
    /** Absent: the preview has no custom domain, or the server requires no proof. */
    domainVerification: DomainVerification.optional(),
    port: z.int(),
    sslStatus: z.string().meta({ description: '"active"; "pending_validation" for a custom domain without proof.' }),
    authConfig: z.record(z.string(), z.unknown()),
    createdAt: z.iso.datetime(),
  })
  .meta({ id: "Preview" });
export type PreviewReply = z.infer<typeof PreviewReply>;

export const createPreview: Route<CreatePreviewBody, unknown, PreviewReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/preview",
  name: "createPreview",
  summary: "Create a preview of a sandbox's port",
  description:
    "Every port is served at {sandboxID}-pPORT.{sandboxDomain} without a preview. Previews add a list and custom domains.",
  access: "key",
  body: CreatePreviewBody,
  status: 201,
  reply: PreviewReply,
  otherReplies: { 200: { description: "The port had a preview already.", reply: PreviewReply } },
};

export const listPreviews: Route<unknown, unknown, PreviewReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/preview",
  name: "listPreviews",
  summary: "List a sandbox's previews",
  access: "key",
  status: 200,
  reply: z.array(PreviewReply),
};

export const deletePreview: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id/preview/:port",
  name: "deletePreview",
  summary: "Delete a preview",
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
  summary: "Replace the preview token of a sandbox; the old one stops working",
  description: "Afterwards every preview of the sandbox requires the token, also when it required none before.",
  access: "key",
  status: 200,
  reply: RotateReply,
};

/** The port in a path. @throws `not_found` for other text, since no preview has such a port */
export function portFrom(text: string): number {
  if (/^[1-9]\d{0,4}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw noPreview(text);
}

export function noPreview(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "this port has no preview", { resource: "preview URL", id });
}

/**
 * The caller's domain in its canonical form.
 * @param apiHostnames names of the API itself: a sandbox behind one of them would receive the requests of all its users
 * @throws `invalid_argument`
 */
export function customHostnameFrom(domain: string, sandboxDomain: string, apiHostnames: ReadonlySet<string>): string {
  const name = normalName(domain.trim());
  if (name === undefined || !name.includes(".") || name.endsWith(".localhost")) {
    throw new SandboxError("invalid_argument", `domain: "${domain}" is not a public host name`);
  }
  if (name === sandboxDomain || name.endsWith(`.${sandboxDomain}`)) {
    throw new SandboxError("invalid_argument", `domain: names below ${sandboxDomain} are given by the server`);
  }
  if (apiHostnames.has(name)) {
    throw new SandboxError("invalid_argument", `domain: ${name} is the API's own name: choose another one`);
  }
  return name;
}

/** The generated host name of a sandbox's port. */
export function previewHostname(sandboxId: string, port: number, sandboxDomain: string): string {
  return `${sandboxId}-p${port}.${sandboxDomain}`;
}

/** The properties of a preview that clients may see. */
interface PreviewToShow {
  readonly id: string;
  readonly sandboxId: string;
  readonly organizationId: string;
  readonly port: number;
  readonly customHostname?: string | undefined;
  readonly domainProvedAt?: Date | undefined;
  readonly createdAt: Date;
}

interface PreviewPlace {
  readonly sandboxDomain: string;
  /** The record that proves the custom domain; undefined when there is none or no proof is required. */
  readonly proof: { readonly type: "TXT"; readonly name: string; readonly value: string } | undefined;
}

export function previewReplyOf(preview: PreviewToShow, { sandboxDomain, proof }: PreviewPlace): PreviewReply {
  const { id, sandboxId, organizationId, port, customHostname, domainProvedAt: provedAt, createdAt } = preview;
  const status = provedAt === undefined ? "pending" : "verified";
  const verifiedAt = provedAt === undefined ? {} : { verifiedAt: provedAt.toISOString() };
  return {
    id,
    sandboxId,
    orgId: organizationId,
    hostname: previewHostname(sandboxId, port, sandboxDomain),
    ...(customHostname === undefined ? {} : { customHostname }),
    ...(proof === undefined ? {} : { domainVerification: { status, ...proof, ...verifiedAt } }),
    port,
    sslStatus: proof !== undefined && status === "pending" ? "pending_validation" : "active",
    authConfig: {},
    createdAt: createdAt.toISOString(),
  };
}
