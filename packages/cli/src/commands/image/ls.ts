import type { ImageSummary } from "@opensandbox/server";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { megabytes } from "#output/megabytes.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List images, built or not",
  examples: [
    { line: "image ls", shows: "list all images" },
    { line: "image ls --json | jq -r '.[] | select(.built) | .name'", shows: "print the names of built images" },
  ],
  async run(_input, { host, print }) {
    const { listImages, readConfig } = await import("@opensandbox/server");
    const images = await listImages(readConfig(host.env));
    await print(table(["IMAGE", "BUILT", "ON DISK", "HASH"], images.map(rowOf)), images);
  },
});

function rowOf({ name, built, bytes, hash, createdAt }: ImageSummary): string[] {
  if (!built) return [name, "no", "-", "-"];
  return [name, createdAt === undefined ? "yes" : `${age(createdAt)} ago`, megabytes(bytes), hash.slice(0, 12)];
}
