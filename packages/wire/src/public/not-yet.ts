/** Routes that published clients may call and this server does not implement, with their names in the refusal. */
export const notYet: readonly (readonly [method: string, path: string, what: string])[] = [
  ["POST", "/api/sandboxes/:id/mounts", "mounting remote storage"],
  ["GET", "/api/sandboxes/:id/mounts", "mounting remote storage"],
  ["DELETE", "/api/sandboxes/:id/mounts", "mounting remote storage"],

  ["GET", "/api/capacity/*", "reserving capacity"],
  ["POST", "/api/capacity/*", "reserving capacity"],
  ["DELETE", "/api/capacity/*", "reserving capacity"],
  ["GET", "/api/dashboard/*", "the dashboard"],
  ["POST", "/api/dashboard/*", "the dashboard"],
  ["PUT", "/api/dashboard/*", "the dashboard"],
  ["PATCH", "/api/dashboard/*", "the dashboard"],
  ["DELETE", "/api/dashboard/*", "the dashboard"],
];
