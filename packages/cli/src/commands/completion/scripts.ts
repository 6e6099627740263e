/** Shells with a completion script. Each is a command of `completion`. */
export const shells = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof shells)[number];

/** A completion script. It calls the program for candidates, so that it needs no update. */
export function scriptFor(shell: Shell, program: string): string {
  const names = [...new Set(["osb", "opensandbox", program])].join(" ");
  switch (shell) {
    case "bash":
      return [
        "_osb() {",
        "  local IFS=$'\\n'",
        `  COMPREPLY=($(compgen -W "$("$1" completion words -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$2"))`,
        "}",
        `complete -o default -F _osb ${names}`,
      ].join("\n");
    case "zsh":
      return [
        "_osb() {",
        `  local -a found=(\${(f)"$("\${words[1]}" completion words -- "\${(@)words[2,CURRENT]}" 2>/dev/null)"})`,
        "  (( $#found )) && compadd -- $found || _files",
        "}",
        `compdef _osb ${names}`,
      ].join("\n");
    case "fish":
      return [
        "function __osb_words",
        "  set -l typed (commandline -opc) (commandline -ct)",
        "  $typed[1] completion words -- $typed[2..-1] 2>/dev/null",
        "end",
        ...names.split(" ").map((name) => `complete -c ${name} -a '(__osb_words)'`),
      ].join("\n");
  }
}
