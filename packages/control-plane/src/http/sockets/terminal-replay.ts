/**
 * What a terminal answers to: questions for its kind, state, colours and size (ECMA-48, xterm's ctlseqs). A program that
 * once asked has its answer; a second one, to a replay, would reach whatever reads the keyboard now.
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

/** The beginning of what could become a question; a longer one is none. */
// oxlint-disable-next-line no-control-regex -- it is about control characters
const beginning = /\x1b(?:\[[>=?]?[0-9;]{0,64}\$?|\][^\x07\x1b]{0,256}\x1b?|P[^\x1b]{0,256}\x1b?)?$/;

/** Takes questions to the terminal out of what it is shown again, however that is cut. */
export class TerminalReplay {
  #held = "";

  /** What can be shown of `bytes` and those before. */
  pass(bytes: Uint8Array): Uint8Array {
    const text = (this.#held + Buffer.from(bytes).toString("latin1")).replaceAll(questions, "");
    const end = beginning.exec(text)?.index ?? text.length;
    this.#held = text.slice(end);
    return Buffer.from(text.slice(0, end), "latin1");
  }

  /** What is left at the end of the replay: it may go on in what is new. */
  end(): Uint8Array {
    const rest = Buffer.from(this.#held, "latin1");
    this.#held = "";
    return rest;
  }
}
