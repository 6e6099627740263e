import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

interface Boundary {
  /** The files that the rule covers; tests and their helpers are exempt. */
  readonly from: string;
  readonly except?: string | readonly string[];
  /** The forbidden imports: packages, or paths from the repository's root. */
  readonly to: RegExp;
  /** Type imports are allowed: they do not load the other side's code. */
  readonly typesMayCross?: true;
  readonly because: string;
}

const boundaries: readonly Boundary[] = [
  {
    from: "packages/wire/src/**",
    to: /^(@opensandbox\/|packages\/(?!wire\/)|node:)/,
    because: "everything imports the wire, the SDK in browsers too",
  },
  {
    from: "packages/sdk/src/**",
    to: /^(node:|@opensandbox\/(?!wire\b))/,
    because: "the SDK also runs in browsers and knows a server by its wire alone",
  },
  {
    from: "packages/dashboard/src/**",
    to: /^(node:|@opensandbox\/(?!sdk$|wire\/(dashboard|route)\.ts$))/,
    because: "the dashboard runs in browsers and reaches a server by the SDK alone, but for its own session",
  },
  {
    from: "packages/control-plane/src/**",
    to: /^@opensandbox\/(?!wire\b)/,
    because: "the control plane knows a worker by its wire alone",
  },
  {
    from: "packages/worker/src/**",
    to: /^@opensandbox\/(?!wire\b)/,
    because: "a worker knows a control plane by its wire alone",
  },
  {
    from: "packages/guest-agent/src/**",
    to: /^(?!node:|@bufbuild\/protobuf\b|@opensandbox\/wire\/((errors|version)\.ts|guest\/)|packages\/guest-agent\/)/,
    because: "every machine loads the agent's imports, and both sides share only the guest's protocol",
  },
  {
    from: "packages/agent-wrapper/src/**",
    to: /^(?!node:|eventsource-parser$|packages\/agent-wrapper\/)/,
    typesMayCross: true,
    because:
      "it starts with every agent session, so its bundle holds the parser of the model's event stream and nothing else",
  },
  {
    from: "packages/server/src/**",
    to: /^@opensandbox\/(cli|sdk|guest-agent|agent-wrapper)\b/,
    because: "a server does not know its clients",
  },
  {
    from: "packages/cli/src/**",
    to: /^@opensandbox\/(worker|control-plane|guest-agent|agent-wrapper)\b/,
    because: "a command reaches them by a server, in this process or elsewhere",
  },
  {
    from: "packages/worker/src/{hypervisor,disks,network,snapshots,guest,images,host}/**",
    to: /^packages\/worker\/src\/(sandboxes|templates|machine)\//,
    typesMayCross: true,
    because: "a machine is assembled from parts, and no part knows the whole",
  },
  {
    from: "packages/worker/src/machine/**",
    to: /^packages\/worker\/src\/(sandboxes|templates)\//,
    because: "a machine does not know its purpose",
  },
  {
    from: "packages/worker/src/templates/**",
    to: /^packages\/worker\/src\/sandboxes\//,
    because: "a template does not know the sandboxes that are started from it",
  },
  ...["hypervisor", "disks", "network", "snapshots", "guest", "images"].map((folder) => ({
    from: `packages/worker/src/${folder}/**`,
    to: new RegExp(`^packages/worker/src/(?!${folder}/)(hypervisor|disks|network|snapshots|guest|images)/`),
    typesMayCross: true as const,
    because: "only machine/ knows that a machine needs a disk, a network and a guest",
  })),
  {
    from: "packages/worker/src/host/**",
    to: /^packages\/worker\/src\/(?!host\/)/,
    because: "code that touches the host is the lowest layer",
  },
  {
    from: "packages/worker/src/hypervisor/qemu/**",
    to: /^packages\/worker\/src\/hypervisor\/(firecracker|fake)\//,
    because: "hypervisors meet only in hypervisor.ts",
  },
  {
    from: "packages/worker/src/hypervisor/fake/**",
    to: /^packages\/worker\/src\/hypervisor\/(firecracker|qemu)\//,
    because: "hypervisors meet only in hypervisor.ts",
  },
  {
    from: "packages/worker/src/**",
    except: [
      "packages/worker/src/host/{run-command,confined-process}.ts",
      "packages/worker/src/hypervisor/vm-process.ts",
    ],
    to: /^node:child_process$/,
    because: "helpers, confined services and machines each have one file that starts them, and nothing else does",
  },
  {
    from: "packages/{worker,guest-agent}/src/**",
    except: ["packages/worker/src/host/kernel/ffi.ts", "packages/guest-agent/src/system/kernel/libc.ts"],
    to: /^node:ffi$/,
    because: "it is experimental, so what would have to change with it stays in one place each side",
  },
  {
    from: "packages/control-plane/src/**",
    except: "packages/control-plane/src/{http/**,e2b/**,index.ts}",
    to: /^(packages\/control-plane\/src\/(http|e2b)\/|fastify$|ws$|node:http$)/,
    because: "no use case knows a wire's words, status codes or quirks",
  },
  {
    from: "packages/control-plane/src/{http,e2b}/**",
    to: /^(kysely|node:sqlite|packages\/control-plane\/src\/database\/)/,
    because: "a route calls a use case, and that a store",
  },
  {
    from: "packages/control-plane/src/**",
    except: "packages/control-plane/src/database/**",
    to: /^(node:sqlite|pg)$/,
    because: "which database it is only database/ knows",
  },
];

for (const { from, except, to, typesMayCross = false, because } of boundaries) {
  test(`${from} does not import ${to.source}: ${because}`, () => {
    const files = globSync(from, { cwd: root, exclude: except === undefined ? [] : [except].flat() }).filter(isOurs);
    assert.ok(files.length > 0, `${from} names no file`);
    const crossing = files.flatMap((file) =>
      importsOf(file)
        .filter(({ target, onlyType }) => to.test(target) && !(typesMayCross && onlyType))
        .map(({ target }) => `${file} imports ${target}`),
    );
    assert.deepEqual(crossing, [], because);
  });
}

test("only the entrances of processes read the environment", () => {
  const allowed = /^packages\/(server\/src\/config|(cli|agent-wrapper)\/src\/main)\.ts$/;
  // PATH is the host's, not a setting of ours.
  const reader = /process\.env(?!\.PATH\b|\["PATH"\]|\s*\})/;
  const readers = globSync("packages/*/src/**/*.ts", { cwd: root })
    .filter((file) => isOurs(file) && !allowed.test(file) && !file.includes("/host/run-command.ts"))
    .filter((file) => reader.test(readFileSync(join(root, file), "utf8")));
  assert.deepEqual(readers, []);
});

test("no files import each other in a circle, not even by types or import()", () => {
  const files = globSync("packages/*/src/**/*.{ts,tsx}", { cwd: root }).filter((file) => !file.endsWith(".test.ts"));
  const imports = new Map(files.map((file) => [file, importsOf(file).map(({ target }) => fileOf(target))]));
  const circles = circlesIn(imports);
  assert.deepEqual(circles, []);
});

test("no folder has more than 16 source files", () => {
  const files = globSync("packages/*/src/**/*.{ts,tsx,css}", { cwd: root }).filter(
    (file) => !file.endsWith(".test.ts"),
  );
  const folders = Object.entries(Object.groupBy(files, (file) => dirname(file)));
  const crowded = folders.filter(([, { length } = []]) => length > 16);
  assert.deepEqual(
    crowded.map(([folder, { length } = []]) => `${folder}: ${length}`),
    [],
  );
});

test("a limit is named max or min", () => {
  const files = globSync("{packages/*/src,tests,bench,tools}/**/*.{ts,tsx}", {
    cwd: root,
    exclude: ["**/node_modules/**"],
  });
  const named = files.flatMap((file) =>
    (readFileSync(join(root, file), "utf8").match(/\b(?:most|longest|least|smallest|fewest)[A-Z]\w*/g) ?? []).map(
      (name) => `${file}: ${name}`,
    ),
  );
  assert.deepEqual(named, []);
});

function isOurs(file: string): boolean {
  return /\.tsx?$/.test(file) && !/\.test\.ts$|\/testing\/|-contract\.ts$|_pb\./.test(file);
}

function importsOf(file: string): { readonly target: string; readonly onlyType: boolean }[] {
  const text = readFileSync(join(root, file), "utf8");
  const statements = text.matchAll(
    /^(?:import|export)\s+(type\s)?(?:[^"';]*?\sfrom\s+)?"([^"]+)"|\bimport\("([^"]+)"\)/gm,
  );
  return [...statements].map(([, type, named, dynamic]) => ({
    target: targetOf(file, named ?? dynamic ?? ""),
    onlyType: type !== undefined,
  }));
}

/** A file's path from the root, or a package's name. */
function targetOf(file: string, specifier: string): string {
  if (specifier.startsWith(".")) return join(dirname(file), specifier);
  const [, home = ""] = /^(packages\/[^/]+\/src)\//.exec(file) ?? [];
  return specifier.startsWith("#") ? join(home, specifier.slice(1)) : specifier;
}

/** The file that a result of {@link targetOf} names. A package without a path resolves to its index. */
function fileOf(target: string): string {
  const [, name, path = "index.ts"] = /^@opensandbox\/([^/]+)(?:\/(.+))?$/.exec(target) ?? [];
  return name === undefined ? target : `packages/${name}/src/${path}`;
}

/** The strongly connected components with more than one file (Tarjan). */
function circlesIn(imports: ReadonlyMap<string, readonly string[]>): string[][] {
  const indexes = new Map<string, number>();
  const open: string[] = [];
  const circles: string[][] = [];
  const visit = (file: string): number => {
    const index = indexes.size;
    indexes.set(file, index);
    open.push(file);
    let low = index;
    for (const target of imports.get(file) ?? []) {
      if (!imports.has(target)) continue;
      if (!indexes.has(target)) low = Math.min(low, visit(target));
      else if (open.includes(target)) low = Math.min(low, indexes.get(target) ?? low);
    }
    if (low === index) {
      const circle = open.splice(open.indexOf(file));
      if (circle.length > 1 || imports.get(file)?.includes(file)) circles.push(circle);
    }
    return low;
  };
  for (const file of imports.keys()) if (!indexes.has(file)) visit(file);
  return circles;
}
