import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** A named port of a sandbox. Ports without a preview can be reached too. */
export interface Preview {
  /** A UUID. */
  readonly id: string;
  readonly sandboxId: SandboxId;
  readonly organizationId: string;
  readonly port: number;
  /** The user's own host name for it. */
  readonly customHostname?: string | undefined;
  /** When the DNS record of the custom domain was last found. */
  readonly domainProvedAt?: Date | undefined;
  readonly createdAt: Date;
}

/** A DNS record that proves a domain. */
export interface DomainRecord {
  readonly type: "TXT";
  readonly name: string;
  readonly value: string;
}
