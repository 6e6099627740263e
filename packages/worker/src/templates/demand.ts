/** A count of events that forgets: each event counts half after every `halfLifeMs`. Times are in milliseconds. */
export class DecayingCount {
  readonly #halfLifeMs: number;
  #count = 0;
  #countedAt = 0;

  constructor(halfLifeMs: number) {
    this.#halfLifeMs = halfLifeMs;
  }

  add(now: number): void {
    this.#count = this.at(now) + 1;
    this.#countedAt = now;
  }

  at(now: number): number {
    return this.#count * 2 ** ((this.#countedAt - now) / this.#halfLifeMs);
  }
}

/** A template that sandboxes have used lately. */
export interface DemandedTemplate {
  readonly key: string;
  /** The number of uses; older ones count less. */
  readonly demand: number;
  /** Memory of the host that one ready machine is expected to need, in MiB. */
  readonly neededMib: number;
}

/**
 * Shares ready machines out among templates: at most `perTemplate` for each, and `budgetMib` of memory for all. Each
 * template gets its first machine before any gets a second; among equals the one in higher demand comes first. Returns one
 * key for each machine, in the order in which the machines are to be made. Pure.
 */
export function shareOut(
  templates: readonly DemandedTemplate[],
  { perTemplate, budgetMib }: { readonly perTemplate: number; readonly budgetMib: number },
): readonly string[] {
  const byDemand = templates.toSorted((a, b) => b.demand - a.demand);
  const machines: string[] = [];
  let leftMib = budgetMib;
  for (let round = 0; round < perTemplate; round += 1) {
    for (const { key, neededMib } of byDemand) {
      if (neededMib > leftMib) continue;
      leftMib -= neededMib;
      machines.push(key);
    }
  }
  return machines;
}
