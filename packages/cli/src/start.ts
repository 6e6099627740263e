import { registerHooks } from "node:module";

// Starts the command line with a resolver that needs no disk. For each import, Node's own asks the disk what the specifier
// could mean: a quarter of the time until help is shown. A specifier that ends in `.ts` names its file exactly: below the
// importing file's folder, or below its package's `src` when it begins with `#`.
registerHooks({
  resolve(specifier, context, next) {
    const [, kind, path] = /^(\.\.?\/|#)(.*\.ts)$/.exec(specifier) ?? [];
    const { parentURL } = context;
    if (kind === undefined || path === undefined || parentURL === undefined) return next(specifier, context);
    const [sources] = /^.*\/packages\/[^/]+\/src\//.exec(parentURL) ?? [];
    if (kind === "#" && sources === undefined) return next(specifier, context);
    const url = kind === "#" ? new URL(path, sources) : new URL(specifier, parentURL);
    return { url: url.href, format: "module-typescript", shortCircuit: true };
  },
});
await import("./main.ts");
