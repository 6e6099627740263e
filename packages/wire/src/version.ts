/** The version of this release. `tools/package/version.test.ts` holds every package.json to it. */
export const version = "0.1.0";
