import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { "claude-agent-wrapper": "src/main.ts" },
  format: "esm",
  platform: "node",
  target: "node26",
  minify: true,
  dts: false,
  clean: false,
  outputOptions: { entryFileNames: "claude-agent-wrapper.mjs" },
  report: false,
  logLevel: "warn",
});
