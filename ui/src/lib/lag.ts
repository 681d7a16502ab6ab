/** The lag of a group over time: the node's last minute at first, then a point with every snapshot that is seen. */

import { shallowRef, watch, type Ref, type ShallowRef } from "vue";
import type { LiveGroup } from "../api/types";

export interface LagPoint {
  at: number;
  lag: number;
}

export const KEPT = 450;
const PERIOD_MS = 2_000;

export function follow(before: LagPoint[], group: LiveGroup, at: number): LagPoint[] {
  const past = group.lags.slice(0, -1);
  const known =
    before.length > 0 ? before : past.map((lag, n) => ({ at: at - (past.length - n) * PERIOD_MS, lag }));
  return [...known.slice(-(KEPT - 1)), { at, lag: group.lag }];
}

export function useLagHistory(live: Ref<{ group: LiveGroup; at: number } | null>): ShallowRef<LagPoint[]> {
  const history = shallowRef<LagPoint[]>([]);
  watch(
    live,
    (now) => {
      if (now !== null) history.value = follow(history.value, now.group, now.at);
    },
    { immediate: true },
  );
  return history;
}
