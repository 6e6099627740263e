/**
 * The queries that a terminal answers: for its kind, state, colours and size (ECMA-48, xterm's ctlseqs). The program that
 * asked has its answer. An answer to a replayed query would reach the program that reads the keyboard now.
 */
const questions = new RegExp(
  [
    "\\x1b\\[[>=]?[0-9;]*c", // DA
    "\\x1bZ", // DECID
    "\\x1b\\[\\??[0-9;]*n", // DSR
    "\\x1b\\[\\??[0-9;]*\\$p", // DECRQM
    "\\x1b\\[>[0-9]*q", // XTVERSION
    "\\x1b\\[\\?u", // the keyboard's mode, of kitty
    "\\x1b\\[(?:1[1345689]|2[01])(?:;[0-9]*)*t", // XTWINOPS that report
    "\\x1b\\][0-9]+;[^\\x07\\x1b]*\\?(?:\\x07|\\x1b\\\\)", // OSC colours and clipboard
    "\\x1bP[$+]q[^\\x1b]*\\x1b\\\\", // DECRQSS, XTGETTCAP
  ].join("|"),
  "g",
);

/** The beginning of a possible query. Queries are not longer than this. */
// oxlint-disable-next-line no-control-regex -- it is about control characters
const beginning = /\x1b(?:\[[>=?]?[0-9;]{0,64}\$?|\][^\x07\x1b]{0,256}\x1b?|P[^\x1b]{0,256}\x1b?)?$/;

/** Removes queries from replayed output, however the output is cut into pieces. */
export class TerminalReplay {
  #held = "";

  /** The part of the output so far that can be shown. */
  pass(bytes: Uint8Array): Uint8Array {
    const text = (this.#held + Buffer.from(bytes).toString("latin1")).replaceAll(questions, "");
    const end = beginning.exec(text)?.index ?? text.length;
    this.#held = text.slice(end);
    return Buffer.from(text.slice(0, end), "latin1");
  }

  /** The rest at the end of the replay, which new output may continue. */
  end(): Uint8Array {
    const rest = Buffer.from(this.#held, "latin1");
    this.#held = "";
    return rest;
  }
}
