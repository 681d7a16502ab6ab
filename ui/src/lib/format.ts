/** Numbers, times and sizes as people read them. A dash stands for what is not known, and never for zero. */

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? UNKNOWN : whole.format(value);
}

/** At most five characters or so: 950, 12.3K, 4.5M. */
export function brief(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

/** Events a second: one decimal where that says something. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  if (value > 0 && value < 10) return value.toFixed(1);
  return brief(Math.round(value));
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  let amount = value;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (amount < 1024) return `${unit === "B" || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${unit}`;
    amount /= 1024;
  }
  return `${amount.toFixed(1)} TiB`;
}

/** A latency in milliseconds. */
export function millis(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  return value < 10 ? `${value.toFixed(1)} ms` : `${whole.format(value)} ms`;
}

/** How long: 0.4 s, 12 s, 3 min 20 s, 5 h 10 min, 2 d 3 h. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return UNKNOWN;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds < 0.05 ? 0 : seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const units: [number, string][] = [
    [86_400, "d"],
    [3_600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const at = units.findIndex(([size]) => seconds >= size);
  const [big, bigName] = units[at]!;
  const [small, smallName] = units[at + 1]!;
  const rest = Math.floor((seconds % big) / small);
  return `${Math.floor(seconds / big)} ${bigName}${rest > 0 ? ` ${rest} ${smallName}` : ""}`;
}

const two = (value: number): string => String(value).padStart(2, "0");

/** 14:03:07.123, in the reader's zone. */
export function clockTime(ms: number): string {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** 2026-11-24 14:03:07, in the reader's zone. */
export function dateTime(ms: number): string {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return UNKNOWN;
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function ago(ms: number, now: number): string {
  const passed = Math.max(0, now - ms);
  if (passed < 1500) return "now";
  const seconds = Math.floor(passed / 1000);
  return `${seconds < 10 ? `${seconds} s` : duration(seconds * 1000)} ago`;
}

export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}

/** Lag that may be partly unknown: "at least". */
export function lag(known: number, unknownPartitions: number): string {
  if (unknownPartitions === 0) return brief(known);
  return known === 0 ? UNKNOWN : `≥ ${brief(known)}`;
}

export type Direction = "growing" | "falling" | "steady";

/** Where a lag is going; small movements around zero are not news. */
export function direction(lagNow: number, perSecond: number): Direction {
  // The pace is a mean of the last minute: what is down to nothing, by a reset too, does not grow.
  if (lagNow === 0 && perSecond > 0) return "steady";
  // In a minute at this pace: less than a tenth of it, or a handful.
  if (Math.abs(perSecond) * 60 < Math.max(20, lagNow * 0.1)) return "steady";
  return perSecond > 0 ? "growing" : "falling";
}

/** Text for one line of a table: no line breaks, and not endless. */
export function oneLine(text: string, most = 200): string {
  const flat = text.slice(0, most * 2).replace(/\s+/g, " ");
  return flat.length > most || text.length > most * 2 ? `${flat.slice(0, most)}…` : flat;
}
