/** A file to upload, and its path below the directory that it goes to. */
export interface Upload {
  readonly name: string;
  readonly file: File;
}

/** The files that were dropped on the page, with those in dropped directories. */
export async function droppedFiles({ items }: DataTransfer): Promise<Upload[]> {
  // The list of items is empty after the event, so the entries are taken first.
  const entries = [...items].flatMap((item) => item.webkitGetAsEntry() ?? []);
  return (await Promise.all(entries.map((entry) => filesIn(entry, "")))).flat();
}

async function filesIn(entry: FileSystemEntry, above: string): Promise<Upload[]> {
  const name = above + entry.name;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ name, file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: Upload[] = [];
  for (;;) {
    // A reader gives some entries at a time, and none at the end.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    for (const each of some) found.push(...(await filesIn(each, `${name}/`)));
  }
}
