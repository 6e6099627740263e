import { defineConfig } from "vite";

export default defineConfig({
  base: "/dashboard/",
  publicDir: false,
  build: {
    target: "es2023",
    // The page's policy allows no inline script or style, and no data as a script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
    reportCompressedSize: false,
    rolldownOptions: {
      output: {
        codeSplitting: {
          groups: [
            // `policy.ts` comes before every module that makes a schema.
            { name: "zod", test: /\/node_modules\/zod\/|\/src\/policy\.ts$/ },
            // One file is smaller, compressed, than the parts that pages share.
            { name: "vendor", test: /\/node_modules\/(react|react-dom|scheduler|@tanstack|@base-ui|@floating-ui)\// },
          ],
        },
      },
      onLog(level, log, handle) {
        // Components name themselves as parts of a client; everything here is one.
        if (log.code !== "MODULE_LEVEL_DIRECTIVE") handle(level, log);
      },
    },
  },
});
