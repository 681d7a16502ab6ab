/** JSON whose numbers survive: 12345678901234567890 is shown, copied and exported with its own digits. */

type Reviver = (this: unknown, key: string, value: unknown, context?: { source?: string }) => unknown;

const keepDigits: Reviver = function (_key, value, context) {
  const source = context?.source;
  if (typeof value !== "number" || source === undefined || JSON.rawJSON === undefined) return value;
  return String(value) === source ? value : JSON.rawJSON(source);
};

/** Parse events. Where the browser cannot keep digits, large numbers are rounded as everywhere in JavaScript. */
export function parseExact<T>(text: string): T {
  return JSON.parse(text, keepDigits as (key: string, value: unknown) => unknown) as T;
}

export function pretty(value: unknown): string {
  return JSON.stringify(value, null, 2) ?? "null";
}

export function compact(value: unknown): string {
  return JSON.stringify(value) ?? "null";
}

/** What is wrong with a text that should be JSON; null when nothing is. */
export function jsonError(text: string): string | null {
  if (text.trim() === "") return "A payload is needed: any JSON value, for example {}.";
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
