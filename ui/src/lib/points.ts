/** Charts' history: the node's own at first, one point a snapshot from then on. */

import type { Snapshot } from "../api/types";

export interface Point {
  at: number;
  in: number;
  out: number;
  persisted: number;
  unpersisted: number;
  lag: number;
  p50: number | null;
  p99: number | null;
  rejected: number;
  memory: number;
}

export const KEPT = 450;

export function pointsOf(history: { points: (number | null)[][] }): Point[] {
  return history.points.map(([at, into, out, persisted, unpersisted, lag, p50, p99, rejected, memory]) => ({
    at: at ?? 0,
    in: into ?? 0,
    out: out ?? 0,
    persisted: persisted ?? 0,
    unpersisted: unpersisted ?? 0,
    lag: lag ?? 0,
    p50: p50 ?? null,
    p99: p99 ?? null,
    rejected: rejected ?? 0,
    memory: memory ?? 0,
  }));
}

export function totals(snapshot: Snapshot): Point {
  const point: Point = {
    at: snapshot.at_ms,
    in: 0,
    out: 0,
    persisted: 0,
    unpersisted: 0,
    lag: 0,
    p50: snapshot.append.p50_ms,
    p99: snapshot.append.p99_ms,
    rejected: snapshot.rejected_per_s,
    memory: snapshot.redis.used_memory,
  };
  for (const topic of snapshot.topics) {
    point.in += topic.in_per_s;
    point.persisted += topic.persisted_per_s;
    point.unpersisted += topic.unpersisted;
    for (const group of topic.groups) {
      point.out += group.out_per_s;
      point.lag += group.lag;
    }
  }
  return point;
}

export function append(points: Point[], next: Point): Point[] {
  const last = points.at(-1);
  if (last !== undefined && next.at <= last.at) return points;
  return [...points.slice(-(KEPT - 1)), next];
}

/** A round number at or above `value`: the top of an axis. */
export function niceCeiling(value: number): number {
  if (value <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * step).find((candidate) => candidate >= value) ?? 10 * step;
}
