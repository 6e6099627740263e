import type { ListedImage } from "@opensandbox/server";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { megabytes } from "#output/megabytes.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List images, built or not",
  description: `ON DISK is the allocated space of the image's builds. TEMPLATES is that of its warm machines, without the files of the
image that they share. A file with several names counts once. What all images share, such as the kernel, is in the last
line.`,
  examples: [
    { line: "image ls", shows: "list all images" },
    { line: "image ls --json | jq -r '.[] | select(.built) | .name'", shows: "print the names of built images" },
  ],
  async run(_input, { host, print }) {
    const { listImages, readConfig } = await import("@opensandbox/server");
    const images = await listImages(readConfig(host.env));
    await print(
      `${table(["IMAGE", "BUILT", "ON DISK", "TEMPLATES", "USED", "HASH"], images.map(rowOf))}\n${totalOf(images)}`,
      images,
    );
  },
});

function rowOf({ name, built, bytes, templateBytes, hash, createdAt, lastUsedAt, inUse }: ListedImage): string[] {
  if (!built) return [name, "no", "-", "-", "-", "-"];
  const used = inUse ? "now" : lastUsedAt === undefined ? "-" : `${age(lastUsedAt)} ago`;
  const made = createdAt === undefined ? "yes" : `${age(createdAt)} ago`;
  return [name, made, megabytes(bytes), megabytes(templateBytes), used, hash.slice(0, 12)];
}

function totalOf(images: readonly ListedImage[]): string {
  const own = images.reduce((sum, { bytes, templateBytes }) => sum + bytes + templateBytes, 0);
  const shared = images[0]?.sharedBytes ?? 0;
  return `total ${megabytes(own + shared)}, of which all images share ${megabytes(shared)}`;
}
