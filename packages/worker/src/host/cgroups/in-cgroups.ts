/**
 * A command line whose process takes an OOM score and enters cgroups, then becomes the program of `argv`. So nothing that the program does is outside its cgroups. It ends with code 126 when it cannot.
 */
export function inCgroups(
  entrances: readonly string[],
  oomScore: number,
  argv: readonly string[],
): [string, ...string[]] {
  return ["sh", "-c", script, "sh", String(oomScore), ...entrances, "--", ...argv];
}

const script = [
  'echo "$1" >/proc/self/oom_score_adj || exit 126; shift',
  'while [ "$1" != -- ]; do echo 0 >"$1" || exit 126; shift; done; shift',
  // Shells export these, and the program's environment is only what it was given.
  'unset PWD OLDPWD SHLVL; exec "$@"',
].join("; ");
