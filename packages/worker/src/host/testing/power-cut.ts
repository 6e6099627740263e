import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { type DurableFiles, hostFiles } from "#host/storage/durable-files.ts";

// A model of the states that POSIX allows after a power cut. A file keeps its content, and a directory its entries, as
// they were at the last flush. Of later changes, each directory keeps any first part, and each file all, half or none.

type Node = FileNode | DirectoryNode;

interface FileNode {
  readonly kind: "file";
  content: string;
  flushed: string;
}

interface DirectoryNode {
  readonly kind: "directory";
  readonly flushed: Map<string, Node>;
  /** Changes since the last flush, in order. */
  pending: (readonly { readonly name: string; readonly node: Node | undefined }[])[];
}

type Operation =
  | { readonly kind: "make"; readonly path: string }
  | { readonly kind: "write"; readonly path: string; readonly content: string }
  | { readonly kind: "flush"; readonly path: string }
  | { readonly kind: "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "remove"; readonly path: string }
  | { readonly kind: "mark"; readonly label: string };

/** A directory tree: texts are files. */
export interface Tree {
  readonly [name: string]: string | Tree;
}

export interface PowerCut {
  /** The files on the disk afterwards, below {@link RecordedFiles.root}. */
  readonly tree: Tree;
  /** The marks that were recorded before it. */
  readonly marks: ReadonlySet<string>;
}

/** Works on real files below `root` and records the order of all operations. */
export class RecordedFiles implements DurableFiles {
  readonly root: string;
  readonly #operations: Operation[] = [];
  readonly #forgetful: boolean;

  /** `forgetful`: flushes are not recorded, as if the code did not flush. */
  constructor(root: string, { forgetful = false }: { readonly forgetful?: boolean } = {}) {
    this.root = root;
    this.#forgetful = forgetful;
  }

  async makeDirectory(path: string, mode: number): Promise<void> {
    await hostFiles.makeDirectory(path, mode);
    this.#operations.push({ kind: "make", path });
  }

  async write(path: string, content: string, mode = 0o600): Promise<void> {
    await hostFiles.write(path, content, mode);
    this.#operations.push({ kind: "write", path, content });
  }

  async flush(path: string): Promise<void> {
    // Real flushes would only take time here.
    if (!this.#forgetful) this.#operations.push({ kind: "flush", path });
    await Promise.resolve();
  }

  async rename(from: string, to: string): Promise<void> {
    await hostFiles.rename(from, to);
    this.#operations.push({ kind: "rename", from, to });
  }

  readonly removeTree = async (path: string): Promise<void> => {
    const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) {
      if (entry.isDirectory()) await this.removeTree(join(path, entry.name));
      else this.#operations.push({ kind: "remove", path: join(path, entry.name) });
    }
    await rm(path, { recursive: true, force: true });
    if (entries.length > 0) this.#operations.push({ kind: "remove", path });
  };

  /** Records a point in time; see {@link PowerCut.marks}. */
  mark(label: string): void {
    this.#operations.push({ kind: "mark", label });
  }

  /** Every distinct state that a power cut at any moment may leave. */
  powerCuts(): readonly PowerCut[] {
    const cuts = new Map<string, PowerCut>();
    for (let length = 0; length <= this.#operations.length; length += 1) {
      const operations = this.#operations.slice(0, length);
      const marks = operations.flatMap((operation) => (operation.kind === "mark" ? [operation.label] : []));
      for (const tree of this.#treesAfter(operations)) {
        cuts.set(JSON.stringify([marks, tree]), { tree, marks: new Set(marks) });
      }
    }
    return [...cuts.values()];
  }

  *#treesAfter(operations: readonly Operation[]): Generator<Tree> {
    const model = new Model();
    for (const operation of operations) {
      switch (operation.kind) {
        case "make":
          model.add(this.#parts(operation.path), { kind: "directory", flushed: new Map(), pending: [] });
          break;
        case "write":
          model.write(this.#parts(operation.path), operation.content);
          break;
        case "flush":
          model.flush(this.#parts(operation.path));
          break;
        case "rename":
          model.rename(this.#parts(operation.from), this.#parts(operation.to));
          break;
        case "remove":
          model.remove(this.#parts(operation.path));
          break;
        case "mark":
          break;
      }
    }
    yield* model.trees();
  }

  #parts(path: string): readonly string[] {
    const inside = relative(this.root, path);
    return inside === "" ? [] : inside.split("/");
  }
}

class Model {
  readonly #root: DirectoryNode = { kind: "directory", flushed: new Map(), pending: [] };

  add(path: readonly string[], node: Node): void {
    this.#parent(path).pending.push([{ name: path.at(-1) ?? "", node }]);
  }

  write(path: readonly string[], content: string): void {
    const present = entriesOf(this.#parent(path)).get(path.at(-1) ?? "");
    if (present?.kind === "file") present.content = content;
    else this.add(path, { kind: "file", content, flushed: "" });
  }

  flush(path: readonly string[]): void {
    const node = this.#node(path);
    if (node.kind === "file") {
      node.flushed = node.content;
      return;
    }
    for (const [name, entry] of entriesOf(node)) node.flushed.set(name, entry);
    for (const name of node.flushed.keys()) if (!entriesOf(node).has(name)) node.flushed.delete(name);
    node.pending = [];
  }

  rename(from: readonly string[], to: readonly string[]): void {
    const node = this.#node(from);
    const [source, target] = [this.#parent(from), this.#parent(to)];
    const [leaves, comes] = [
      { name: from.at(-1) ?? "", node: undefined },
      { name: to.at(-1) ?? "", node },
    ];
    if (source === target) source.pending.push([leaves, comes]);
    else {
      target.pending.push([comes]);
      source.pending.push([leaves]);
    }
  }

  remove(path: readonly string[]): void {
    this.#parent(path).pending.push([{ name: path.at(-1) ?? "", node: undefined }]);
  }

  *trees(): Generator<Tree> {
    const directories: DirectoryNode[] = [];
    const files: FileNode[] = [];
    const collect = (node: Node): void => {
      if (node.kind === "file") {
        if (node.content !== node.flushed && !files.includes(node)) files.push(node);
        return;
      }
      if (directories.includes(node)) return;
      directories.push(node);
      for (const entry of node.flushed.values()) collect(entry);
      for (const change of node.pending) for (const { node: added } of change) if (added !== undefined) collect(added);
    };
    collect(this.#root);
    for (const lengths of product(directories.map(({ pending }) => pending.length + 1))) {
      const kept = new Map(directories.map((directory, at) => [directory, lengths[at] ?? 0]));
      for (const contents of contentChoices(files)) yield treeOf(this.#root, kept, contents);
    }
  }

  #parent(path: readonly string[]): DirectoryNode {
    const parent = this.#node(path.slice(0, -1));
    if (parent.kind === "file") throw new Error(`${path.join("/")} lies in a file`);
    return parent;
  }

  #node(path: readonly string[]): Node {
    let node: Node = this.#root;
    for (const name of path) {
      const entry: Node | undefined = node.kind === "directory" ? entriesOf(node).get(name) : undefined;
      if (entry === undefined) throw new Error(`there is no ${path.join("/")}`);
      node = entry;
    }
    return node;
  }
}

/** The entries after the first `length` pending changes, or after all of them. */
function entriesOf(directory: DirectoryNode, length = directory.pending.length): Map<string, Node> {
  const entries = new Map(directory.flushed);
  for (const { name, node } of directory.pending.slice(0, length).flat()) {
    if (node === undefined) entries.delete(name);
    else entries.set(name, node);
  }
  return entries;
}

/** Every file lost, half written or whole; and each one lost while the others are whole. */
function contentChoices(files: readonly FileNode[]): readonly ReadonlyMap<FileNode, string>[] {
  const choose = (contentOf: (file: FileNode) => string): ReadonlyMap<FileNode, string> =>
    new Map(files.map((file) => [file, contentOf(file)]));
  return [
    choose(({ flushed }) => flushed),
    choose(({ content }) => content.slice(0, content.length / 2)),
    choose(({ content }) => content),
    ...files.map((lost) => choose((file) => (file === lost ? "" : file.content))),
  ];
}

function treeOf(
  directory: DirectoryNode,
  kept: ReadonlyMap<DirectoryNode, number>,
  contents: ReadonlyMap<FileNode, string>,
): Tree {
  const entries = entriesOf(directory, kept.get(directory));
  return Object.fromEntries(
    [...entries].map(([name, node]) => [
      name,
      node.kind === "file" ? (contents.get(node) ?? node.content) : treeOf(node, kept, contents),
    ]),
  );
}

/** Every combination of one number below each of `sizes`. */
function* product(sizes: readonly number[]): Generator<readonly number[]> {
  const [size, ...others] = sizes;
  if (size === undefined) {
    yield [];
    return;
  }
  for (const rest of product(others)) for (let at = 0; at < size; at += 1) yield [at, ...rest];
}

/** Runs `look` on a temporary directory that holds the tree. */
export async function onDisk<Result>(tree: Tree, look: (directory: string) => Promise<Result>): Promise<Result> {
  const directory = await mkdtemp(join(tmpdir(), "osb-cut-"));
  try {
    await build(tree, directory);
    return await look(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function build(tree: Tree, directory: string): Promise<void> {
  for (const [name, entry] of Object.entries(tree)) {
    const path = join(directory, name);
    if (typeof entry === "string") {
      await writeFile(path, entry);
      continue;
    }
    await mkdir(path);
    await build(entry, path);
  }
}
