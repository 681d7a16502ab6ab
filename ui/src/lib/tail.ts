/** What a live tail holds: the newest events first, a bound on how many, and honesty about what was left out. */

import { compact } from "../api/json";
import type { StoredEvent } from "../api/types";

export const KEPT = 2_000;

export interface TailState {
  /** Newest first. */
  shown: StoredEvent[];
  /** Came while paused, oldest first. */
  held: StoredEvent[];
  /** Left out by the node because there were too many. */
  dropped: number;
  received: number;
}

export function emptyTail(): TailState {
  return { shown: [], held: [], dropped: 0, received: 0 };
}

/** Takes events in; while paused they wait, the oldest of them giving way. */
export function receive(state: TailState, events: StoredEvent[], dropped: number, paused: boolean): TailState {
  const received = state.received + events.length;
  const lost = state.dropped + dropped;
  if (paused) return { ...state, held: [...state.held, ...events].slice(-KEPT), dropped: lost, received };
  const shown = [...events].reverse().concat(state.shown).slice(0, KEPT);
  return { ...state, shown, dropped: lost, received };
}

export function resume(state: TailState): TailState {
  return { ...state, shown: [...state.held].reverse().concat(state.shown).slice(0, KEPT), held: [] };
}

/** One event as text, as it is searched, copied and exported: the payload is the node's own, whole or its head. */
export function payloadText(event: StoredEvent): string {
  return event.payload_head ?? compact(event.payload);
}

export function matches(event: StoredEvent, needle: string): boolean {
  if (needle === "") return true;
  const wanted = needle.toLowerCase();
  return [event.event_type, event.partition_key ?? "", event.redis_id, payloadText(event), compact(event.headers)].some(
    (text) => text.toLowerCase().includes(wanted),
  );
}

/** One event a line. */
export function toNdjson(events: StoredEvent[]): string {
  return events.map((event) => `${compact(event)}\n`).join("");
}

export function download(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1_000);
}
