import type { ErrorOnWire } from "@opensandbox/wire/errors.ts";
import type { Compression, ImageConfig } from "../image-manifest.ts";
import type { UnpackLimits } from "./unpacker.ts";

/** A line of standard input. The bytes of a layer follow its line. */
export type UnpackRequest =
  | ({ readonly kind: "begin"; readonly root: string } & UnpackLimits)
  | {
      readonly kind: "layer";
      /** Of what follows, in bytes. */
      readonly size: number;
      readonly compression: Compression;
      /** SHA-256 of the uncompressed layer. Absent: it comes from this host. */
      readonly diffId?: string;
      /** What the layer is unpacked below, such as `/lib/modules`; empty for the root. */
      readonly directory: string;
    }
  | { readonly kind: "finish"; readonly config: ImageConfig };

/** A line of standard output. */
export type UnpackReply =
  | { readonly kind: "layer"; readonly entries: number; readonly bytes: number }
  | { readonly kind: "finished" }
  | { readonly kind: "failed"; readonly error: ErrorOnWire };
