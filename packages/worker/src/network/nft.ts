/**
 * Runs the commands of nft on its standard input. Node gives a child a socket there, which nft 1.0.9 of Ubuntu 24.04
 * refuses; it takes a pipe.
 */
export const nftFromInput = ["sh", "-c", "cat | nft -f -"] as const;
