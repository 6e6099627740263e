/** What differs between a real guest and the fake one, which is a plain process of a host. */
export interface GuestMachine {
  readonly fake: boolean;
  /** The home directory of the user `sandbox`, which relative paths start from. */
  readonly home: string;
}
