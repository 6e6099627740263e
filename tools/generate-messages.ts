// Prints the `_pb.{js,d.ts}` files of both wires of protobuf. Needs `protoc` (Debian: protobuf-compiler).
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
for (const [folder, file] of [
  ["packages/wire/src/guest", "messages.proto"],
  ["packages/wire/src/worker/rpc", "worker.proto"],
] as const) {
  execFileSync(
    "protoc",
    [
      `--plugin=protoc-gen-es=${root}node_modules/.bin/protoc-gen-es`,
      `--proto_path=${root}${folder}`,
      `--es_out=${root}${folder}`,
      "--es_opt=target=js+dts,import_extension=js",
      file,
    ],
    { stdio: "inherit" },
  );
}
