import { defineCommand, defineGroup } from "../../command.ts";
import { scriptFor, type Shell } from "./scripts.ts";
import { words } from "./words.ts";

const script = (shell: Shell, line: string, shows: string) =>
  defineCommand({
    summary: `Print the script for ${shell}`,
    examples: [{ line, shows }],
    async run(_input, { host, print }) {
      const text = scriptFor(shell, host.program);
      await print(text, { shell, script: text });
    },
  });

export const completion = defineGroup({
  summary: "Complete commands, options and ids in a shell",
  commands: {
    bash: script("bash", 'eval "$(osb completion bash)"', "in ~/.bashrc"),
    zsh: script("zsh", 'eval "$(osb completion zsh)"', "in ~/.zshrc, after compinit"),
    fish: script("fish", "completion fish > ~/.config/fish/completions/osb.fish", "once"),
    words,
  },
});
