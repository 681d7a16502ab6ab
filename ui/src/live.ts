/** The node's numbers, live and shared by every page: one stream, however many components look at it. */

import { computed, ref, shallowRef } from "vue";
import type { Problem } from "./api/problem";
import { currentToken } from "./api/session";
import { openStream, type StreamState } from "./api/sse";
import { withQuery } from "./api/client";
import type { NodeInfo, Snapshot } from "./api/types";
import { append, type Point, pointsOf, totals } from "./lib/points";

export interface SeenNode extends NodeInfo {
  /** When a snapshot last had it, in the browser's time; null: it is there now. */
  goneSince: number | null;
}

export const snapshot = shallowRef<Snapshot | null>(null);
export const points = shallowRef<Point[]>([]);
export const streamState = ref<StreamState>("connecting");
export const streamProblem = shallowRef<Problem | null>(null);
export const seenNodes = shallowRef<SeenNode[]>([]);
/** The browser's clock, once a second: what "3 s ago" counts from. */
export const now = ref(Date.now());
export const nodeIds = computed(() => snapshot.value?.nodes.map((node) => node.id) ?? []);

/** A node that is gone is shown for so long. */
const REMEMBER_GONE_MS = 10 * 60_000;

let stop: (() => void) | null = null;
let watched: string | null = null;
setInterval(() => (now.value = Date.now()), 1_000);

/** Start, or go on with another topic's partitions in the stream. */
export function watchLive(topic: string | null): void {
  if (stop !== null && watched === topic) return;
  stopLive();
  watched = topic;
  const from = withQuery("/v1/live", { topic });
  stop = openStream(from, {
    onState(state, problem) {
      streamState.value = state;
      if (state !== "connecting") streamProblem.value = problem;
    },
    onEvent({ event, data }) {
      if (event === "snapshot") take(JSON.parse(data) as Snapshot);
      if (event === "history") points.value = pointsOf(JSON.parse(data) as { points: (number | null)[][] });
    },
  });
}

export function stopLive(): void {
  stop?.();
  stop = null;
  watched = null;
}

/** Forget what the last session saw. */
export function forgetLive(): void {
  stopLive();
  snapshot.value = null;
  points.value = [];
  seenNodes.value = [];
}

function take(next: Snapshot): void {
  if (currentToken() === null) return;
  snapshot.value = next;
  points.value = append(points.value, totals(next));
  seenNodes.value = merge(seenNodes.value, next.nodes, Date.now());
}

export function merge(before: SeenNode[], present: NodeInfo[], at: number): SeenNode[] {
  const here = new Set(present.map((node) => node.id));
  const gone = before
    .filter((node) => !here.has(node.id))
    .map((node) => ({ ...node, goneSince: node.goneSince ?? at }))
    .filter((node) => at - node.goneSince < REMEMBER_GONE_MS);
  return [...present.map((node) => ({ ...node, goneSince: null })), ...gone].sort((a, b) => a.id.localeCompare(b.id));
}
