import { readFileSync, statSync } from "node:fs";

/**
 * What `parse` makes of a text file that seldom changes, parsed again when it did. A file that is not there is empty.
 */
export function cachedFile<Value>(path: string, parse: (text: string) => Value): () => Value {
  let version = "";
  let value: Value | undefined;
  return () => {
    const stat = statSync(path, { throwIfNoEntry: false });
    const present = stat === undefined ? "none" : `${stat.ino} ${stat.mtimeMs} ${stat.ctimeMs} ${stat.size}`;
    if (value === undefined || present !== version) {
      value = parse(stat === undefined ? "" : readFileSync(path, "utf8"));
      version = present;
    }
    return value;
  };
}
