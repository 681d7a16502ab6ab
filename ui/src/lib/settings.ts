/** A group's settings as a form has them, and what of a form is to be changed. An empty field is the default. */

import type { GroupSettings } from "../api/types";

export interface GroupForm {
  deliveries: string;
  /** Seconds. */
  idle: string;
  letters: string;
}

export type GroupChanges = Partial<{
  max_deliveries: number | null;
  claim_idle_ms: number | null;
  dead_letter_topic: string | null;
}>;

export const EMPTY: GroupForm = { deliveries: "", idle: "", letters: "" };

export function formOf(settings: GroupSettings): GroupForm {
  return {
    deliveries: settings.max_deliveries === null ? "" : String(settings.max_deliveries),
    idle: settings.claim_idle_ms === null ? "" : String(settings.claim_idle_ms / 1_000),
    letters: settings.dead_letter_topic,
  };
}

/** What differs between two forms, as the API takes it: a group's dead-letter topic is not set just by being shown. */
export function changesOf(before: GroupForm, after: GroupForm): GroupChanges {
  const changes: GroupChanges = {};
  if (differs(before.deliveries, after.deliveries)) changes.max_deliveries = number(after.deliveries);
  if (differs(before.idle, after.idle)) changes.claim_idle_ms = number(after.idle, 1_000);
  if (differs(before.letters, after.letters)) changes.dead_letter_topic = after.letters.trim() || null;
  return changes;
}

// A browser's number field hands out numbers, whatever its type says.
const plain = (value: string | number): string => String(value).trim();
const differs = (one: string, other: string): boolean => plain(one) !== plain(other);
const number = (value: string, factor = 1): number | null =>
  plain(value) === "" ? null : Math.round(Number(value) * factor);
