// Prints packages/wire/src/guest/messages_pb.{js,d.ts} from messages.proto. Needs `protoc` (Debian: protobuf-compiler).
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
execFileSync(
  "protoc",
  [
    `--plugin=protoc-gen-es=${root}node_modules/.bin/protoc-gen-es`,
    `--proto_path=${root}packages/wire/src/guest`,
    `--es_out=${root}packages/wire/src/guest`,
    "--es_opt=target=js+dts,import_extension=js",
    "messages.proto",
  ],
  { stdio: "inherit" },
);
