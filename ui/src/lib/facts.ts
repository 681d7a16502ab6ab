/** What an actor tells about itself, in words: a mailbox as one fact, and nothing that never changes. */

import { bytes, count } from "./format";

export interface Fact {
  name: string;
  value: string;
}

const LEFT_OUT = new Set(["depth", "max_count", "bytes", "max_bytes", "senders", "receivers"]);
/** Numbers that are names. */
const PLAIN = new Set(["port", "epoch"]);

export function factsOf(details: Record<string, unknown>): Fact[] {
  const found: Fact[] = [];
  const { depth, max_count: most, bytes: size, max_bytes: room } = details;
  if (typeof depth === "number") {
    const limit = typeof most === "number" ? ` of ${count(most)}` : "";
    const held = typeof size === "number" && typeof room === "number" ? `, ${bytes(size)} of ${bytes(room)}` : "";
    found.push({ name: "mailbox", value: `${count(depth)}${limit}${held}` });
  }
  for (const [name, value] of Object.entries(details)) {
    if (LEFT_OUT.has(name) || value === null || value === undefined) continue;
    const said = text(name, value);
    if (said !== "") found.push({ name: name.replaceAll("_", " "), value: said });
  }
  return found;
}

function text(name: string, value: unknown): string {
  if (typeof value === "number" && !PLAIN.has(name)) return count(value);
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([key, one]) => (typeof one === "object" && one !== null ? `${key}: ${text(key, one)}` : `${key.replaceAll("_", " ")} ${text(key, one)}`))
    .join(", ");
}
