/** The root of this checkout, which a deployment copies. */
export function sourceRoot(): string {
  return new URL("../../../../../..", import.meta.url).pathname;
}
