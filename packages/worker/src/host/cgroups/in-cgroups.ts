/**
 * A command line whose process takes an OOM score and enters cgroups before it becomes the program of `argv`, so the
 * kernel charges everything that the program does to its cgroups. It exits with 126 when it cannot enter.
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
  // Shells export these variables, which are not in the program's environment.
  'unset PWD OLDPWD SHLVL; exec "$@"',
].join("; ");
