import { words } from "../i18n/words.svelte";
import type { Catalogue } from "../model/catalogue.svelte";
import type { Reason } from "../model/speed";

/** A reason in words. */
export function reasonText({ why, peer, ms, tokens }: Reason, catalogue: Catalogue): string {
  return words.t(`slow.${why}`, { peer: peer ? peerName(peer, catalogue) : "", ms: Math.round(ms ?? 0), tokens: tokens ?? 0 });
}

export function peerName(peer: string, catalogue: Catalogue): string {
  return peer === "in-process" ? words.t("route.here") : catalogue.nameOf(peer);
}
