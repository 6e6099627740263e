/** Calls of the published clients that this server does not implement, with their names in the refusal. */
export const notYet: readonly (readonly [method: string, path: string, what: string])[] = [
  ["POST", "/v2/templates", "the first versions of building a template (use POST /v3/templates)"],
  ["POST", "/templates", "the first versions of building a template (use POST /v3/templates)"],
  ["GET", "/volumes", "volumes"],
  ["POST", "/volumes", "volumes"],
  ["GET", "/volumes/:id", "volumes"],
  ["DELETE", "/volumes/:id", "volumes"],
  ["GET", "/secrets", "secrets"],
  ["POST", "/secrets", "secrets"],
  ["GET", "/secrets/:id", "secrets"],
  ["POST", "/secrets/:id", "secrets"],
  ["DELETE", "/secrets/:id", "secrets"],
  ["GET", "/api-keys", "API keys by this interface (use osb admin key)"],
  ["POST", "/api-keys", "API keys by this interface (use osb admin key)"],
  ["DELETE", "/api-keys/:id", "API keys by this interface (use osb admin key)"],
  ["GET", "/teams/:id/metrics", "metrics of a team"],
  ["GET", "/teams/:id/metrics/max", "metrics of a team"],
];
