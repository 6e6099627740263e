export { type IdentityToken, InstanceMetadata, metadataEndpoint } from "@opensandbox/worker/instance-metadata.ts";
