import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { agent: "src/main.ts", "sftp-server": "src/sftp/main.ts" },
  format: "esm",
  platform: "node",
  target: "node26",
  minify: true,
  dts: false,
  clean: false,
  // The guest has no node_modules.
  deps: { alwaysBundle: [/./] },
  outputOptions: { entryFileNames: "[name].mjs" },
  report: false,
  logLevel: "warn",
});
