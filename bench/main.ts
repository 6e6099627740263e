// `node bench/main.ts ...` is `opensandbox bench ...`.
process.argv.splice(2, 0, "bench");
await import("../packages/cli/src/main.ts");
