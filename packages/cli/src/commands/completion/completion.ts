import { type Commands, defineCommand, defineGroup, type Group } from "../../command.ts";
import { scriptFor, type Shell } from "./scripts.ts";
import { wordsAmong } from "./words.ts";

/** @param commands returns every command to complete; a function, because this group is among them */
export function completionOf(commands: () => Commands): Group {
  return defineGroup({
    summary: "Complete commands, options and ids in a shell",
    commands: {
      bash: script("bash", 'eval "$(osb completion bash)"', "add to ~/.bashrc"),
      zsh: script("zsh", 'eval "$(osb completion zsh)"', "add to ~/.zshrc, after compinit"),
      fish: script("fish", "osb completion fish > ~/.config/fish/conf.d/opensandbox.fish", "run once"),
      words: wordsAmong(commands),
    },
  });
}

function script(shell: Shell, line: string, shows: string) {
  return defineCommand({
    summary: `Print the completion script for ${shell}`,
    examples: [{ line, shows }],
    async run(_input, { host, print }) {
      const text = scriptFor(shell, host.program);
      await print(text, { shell, script: text });
    },
  });
}
