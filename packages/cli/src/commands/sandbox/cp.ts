import { defineCommand } from "../../command.ts";
import type { Copied, CopyContext } from "#copy/copied.ts";
import { type Place, placeOf } from "#copy/place.ts";
import { one, some } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";

export const cp = defineCommand({
  summary: "Copy files and directories between this host and a sandbox",
  description: `Either the sources or the target must be in a sandbox, written SANDBOX:PATH. A relative PATH starts at
/home/sandbox. If TARGET is a directory or ends with /, the copy is placed in it. SOURCE/. copies only the content of a
directory. Permissions and symbolic links are copied, owners and times are not. A file is replaced only when all of its
content has arrived. - stands for standard input or standard output.`,
  arguments: { sources: some("SOURCE"), target: one("TARGET") },
  examples: [
    { line: "cp main.py sb-1a2b3c4d:/workspace/", shows: "copy a file into a sandbox" },
    { line: "cp src tests sb-1a2b3c4d:/workspace/", shows: "copy directories into it" },
    { line: "cp sb-1a2b3c4d:/workspace/out.csv .", shows: "copy a file out of it" },
    { line: "osb cp sb-1a2b3c4d:out.csv - | wc -l", shows: "pass a file on to another program" },
    { line: "cp sb-1a2b3c4d:/workspace/. backup", shows: "copy the content of a directory" },
  ],
  check: ({ sources, target }) => {
    if (sources.length > 1 && [...sources, target].includes(standard))
      return "- stands for a single file: give no other source";
    if (sources[0] === standard && /(:|\/)$/.test(target)) return "- has no name: TARGET must end with a file name";
    const from = new Set(sources.map((source) => placeOf(source).kind));
    if (from.size === 1 && !from.has(placeOf(target).kind)) return undefined;
    return "either the sources or the target must be in a sandbox, written SANDBOX:PATH";
  },
  async run({ sources, target }, { client, host, note, print, progress, signal }) {
    const copied: Copied = { files: 0, directories: 0, links: 0, bytes: 0 };
    using shown = progress();
    const onProgress = (): void => shown.report(`copying: ${copied.files} files, ${megabytes(copied.bytes)}`);
    onProgress();
    const copying: CopyContext = { client: await client(), copied, note, onProgress };
    const [first = ""] = sources;
    const [from, to] = [placeOf(first), placeOf(target)];
    if (target === standard && from.kind === "sandbox") {
      const { copyToStream } = await import("#copy/copy-stream.ts");
      // Standard output carries only the file.
      return await copyToStream(from, host.stdout, copying, signal);
    }
    if (first === standard && to.kind === "sandbox") {
      const { copyFromStream } = await import("#copy/copy-stream.ts");
      await copyFromStream(host.stdin, to, copying, signal);
    } else {
      for (const source of sources) {
        await copy({ from: placeOf(source), to, several: sources.length > 1 }, copying, signal);
      }
    }
    shown.pause();
    await print(`copied ${copied.files} ${copied.files === 1 ? "file" : "files"}, ${megabytes(copied.bytes)}`, copied);
  },
});

/** Standard input or output. Write `./-` for a file of that name. */
const standard = "-";

interface Copy {
  readonly from: Place;
  readonly to: Place;
  readonly several: boolean;
}

async function copy({ from, to, several }: Copy, context: CopyContext, signal: AbortSignal): Promise<void> {
  if (from.kind === "host" && to.kind === "sandbox") {
    const { copyIn } = await import("#copy/copy-in.ts");
    await copyIn({ from: from.path, id: to.id, to: to.path, several }, context, signal);
  } else if (from.kind === "sandbox" && to.kind === "host") {
    const { copyOut } = await import("#copy/copy-out.ts");
    await copyOut({ id: from.id, from: from.path, to: to.path, several }, context, signal);
  }
}
