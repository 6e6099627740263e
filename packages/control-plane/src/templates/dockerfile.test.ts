import assert from "node:assert/strict";
import { test } from "node:test";
import { definitionOfDockerfile } from "./dockerfile.ts";

test("a Dockerfile becomes a base, steps and a start command", () => {
  const text = `
# syntax=docker/dockerfile:1
ARG VERSION=3.12
FROM --platform=linux/amd64 python:\${VERSION} AS base
ENV A=1 B="two words" C='$A'
ENV OLD the value
RUN apt-get update && \\
    # a comment between
    apt-get install -y jq
WORKDIR /srv/\${A}
USER app:app
EXPOSE 80
RUN ["printf", "%s\\\\n", "it's"]
ENTRYPOINT ["python3", "-m"]
CMD http.server
`;
  assert.deepEqual(definitionOfDockerfile(text), {
    base: { kind: "image", image: "python:3.12" },
    steps: [
      { type: "env", args: { vars: { A: "1", B: "two words", C: "$A" } } },
      { type: "env", args: { vars: { OLD: "the value" } } },
      { type: "command", command: "apt-get update &&      apt-get install -y jq" },
      { type: "workdir", args: { path: "/srv/1" } },
      { type: "user", name: "app" },
      { type: "command", command: "printf '%s\\n' 'it'\\''s'" },
    ],
    startCommand: "python3 -m http.server",
  });
});

for (const [text, message] of [
  ["RUN true", /has no FROM/],
  ["FROM a\nFROM b", /cannot have a second FROM/],
  ["FROM a\nCOPY . .", /COPY, since it comes without files/],
  ["FROM a\nRUN <<END\ntrue\nEND", /here-document/],
  ["FROM a\nHEALTHCHECK NONE", /cannot have HEALTHCHECK/],
] as const) {
  test(`a Dockerfile ${JSON.stringify(text)} is refused`, () => {
    assert.throws(() => definitionOfDockerfile(text), message);
  });
}
