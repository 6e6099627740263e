// A sandbox's console, file names, labels and messages come from software that the user may not trust. Printed raw, their
// control characters would move the cursor, rewrite earlier lines, set the window title or fill the clipboard.

/** Text for a terminal: control characters become visible escapes such as `\x1b`; newlines and tabs stay. */
export function visibleText(text: string): string {
  return text.replaceAll(unsafe, escaped);
}

/** As {@link visibleText}, on one line: newlines and tabs become visible as well. */
export function visibleLine(text: string): string {
  return visibleText(text).replaceAll(/[\n\t]/g, escaped);
}

/** JSON for a terminal: `JSON.stringify` leaves DEL, C1 controls and bidirectional controls as they are. */
export function visibleJson(value: unknown): string {
  return JSON.stringify(value).replaceAll(
    unsafe,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

// C0 without tab and newline, DEL, C1, line and paragraph separators, and the controls that reorder text (UAX #9).
const unsafe = /(?![\t\n])[\p{Cc}\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/gu;

function escaped(character: string): string {
  const named = { "\n": "\\n", "\t": "\\t", "\r": "\\r" }[character];
  if (named !== undefined) return named;
  const code = character.charCodeAt(0).toString(16);
  return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u{${code}}`;
}
