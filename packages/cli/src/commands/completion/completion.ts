import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import { one } from "../../inputs.ts";
import { isShell, scriptFor, shells } from "./scripts.ts";
import { words } from "./words.ts";

const script = defineCommand({
  summary: "Print what makes a shell complete commands, options and the ids of sandboxes",
  arguments: { shell: one(shells.join("|")) },
  examples: [
    { line: 'eval "$(osb completion script bash)"', shows: "in ~/.bashrc" },
    { line: 'eval "$(osb completion script zsh)"', shows: "in ~/.zshrc, after compinit" },
    { line: "completion script fish > ~/.config/fish/completions/osb.fish", shows: "once" },
  ],
  async run({ shell }, { host, print }) {
    if (!isShell(shell)) {
      const known = shells.join(", ");
      throw new SandboxError(
        "invalid_argument",
        `there is no completion for "${shell}": there is for ${known}`,
        undefined,
      );
    }
    const text = scriptFor(shell, host.program);
    await print(text, { shell, script: text });
  },
});

export const completion = defineGroup({
  summary: "Complete commands, options and ids in a shell",
  commands: { script, words },
});
