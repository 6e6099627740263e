/** The price list of Azure, which needs no key. https://learn.microsoft.com/rest/api/cost-management/retail-prices */
const priceList = "https://prices.azure.com/api/retail/prices";

/** US dollars an hour for a running Linux machine. Undefined when the list does not answer in time. */
export async function hourlyPrice(size: string, location: string, signal: AbortSignal): Promise<number | undefined> {
  const conditions = {
    serviceName: "Virtual Machines",
    armRegionName: location,
    armSkuName: size,
    priceType: "Consumption",
  };
  const filter = Object.entries(conditions)
    .map(([name, value]) => `${name} eq '${value}'`)
    .join(" and ");
  try {
    const url = `${priceList}?$filter=${encodeURIComponent(filter)}`;
    const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)]) });
    const { Items: items } = (await response.json()) as { Items: Priced[] };
    return items.find(({ productName, skuName }) => !/Windows/.test(productName) && !/Spot|Low Priority/.test(skuName))
      ?.retailPrice;
  } catch {
    // A price is a courtesy: the host exists in any case.
    return undefined;
  }
}

interface Priced {
  readonly productName: string;
  readonly skuName: string;
  readonly retailPrice: number;
}
