import { z } from "zod";
import type { Route } from "../../route.ts";

const tags = z
  .record(z.string(), z.string())
  .refine((value) => Object.keys(value).length <= 50, "a sandbox has at most 50 tags")
  .refine(
    (value) => Object.keys(value).every((key) => /^[A-Za-z0-9_.\-:]{1,128}$/.test(key)),
    "a tag's key has 1 to 128 letters, digits, _ . - and :",
  )
  .refine(
    (value) => Object.keys(value).every((key) => !key.startsWith("oc:")),
    "a tag's key must not begin with oc:, which is reserved",
  )
  .refine(
    (value) => Object.values(value).every((text) => text.length <= 256),
    "a tag's value has at most 256 characters",
  )
  .meta({ description: "All tags of the sandbox; others are removed." });

const TagsReply = z
  .object({ tags: z.record(z.string(), z.string()), tagsLastUpdatedAt: z.iso.datetime().nullable() })
  .meta({ id: "Tags" });
type TagsReply = z.infer<typeof TagsReply>;

export const getTags: Route<unknown, unknown, TagsReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/tags",
  name: "getTags",
  summary: "Get a sandbox's tags",
  access: "key",
  status: 200,
  reply: TagsReply,
};

export const setTags: Route<Record<string, string>, unknown, TagsReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/tags",
  name: "setTags",
  summary: "Replace a sandbox's tags",
  access: "key",
  body: tags,
  status: 200,
  reply: TagsReply,
};

const TagKeysReply = z
  .object({
    keys: z.array(
      z.object({
        key: z.string(),
        sandboxCount: z.int().meta({ description: "Sandboxes with this key that are not stopped." }),
        valueCount: z.int().meta({ description: "Distinct values among them." }),
      }),
    ),
  })
  .meta({ id: "TagKeys" });
type TagKeysReply = z.infer<typeof TagKeysReply>;

export const listTagKeys: Route<unknown, unknown, TagKeysReply> = {
  method: "GET",
  path: "/api/tags",
  name: "listTagKeys",
  summary: "List the keys of all tags in use",
  access: "key",
  status: 200,
  reply: TagKeysReply,
};

export function tagsReplyOf(sandbox: {
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
}): TagsReply {
  return { tags: { ...sandbox.tags }, tagsLastUpdatedAt: sandbox.tagsUpdatedAt?.toISOString() ?? null };
}
