import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { "claude-agent-wrapper": "src/main.ts" },
  format: "esm",
  platform: "node",
  target: "node26",
  minify: true,
  dts: false,
  clean: false,
  // The guest has no node_modules.
  deps: { alwaysBundle: [/./] },
  outputOptions: { entryFileNames: "claude-agent-wrapper.mjs" },
  report: false,
  logLevel: "warn",
});
