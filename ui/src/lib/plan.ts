/** From what a person fills into forms to what the API is asked. Pure, so that it can be tested. */

export type Start = { kind: "new" } | { kind: "all" } | { kind: "id"; id: string } | { kind: "time"; local: string };

/** `start_id` or `start_ms` of a group or a reset; a sentence when something is missing. */
export function startOf(start: Start): { start_id: string } | { start_ms: number } | string {
  switch (start.kind) {
    case "new":
      return { start_id: "$" };
    case "all":
      return { start_id: "0-0" };
    case "id":
      return /^\d+-\d+$/.test(start.id.trim())
        ? { start_id: start.id.trim() }
        : "An event id looks like 1730000000000-0.";
    case "time": {
      const at = millisOf(start.local);
      return at === null ? "Choose a date and a time." : { start_ms: at };
    }
  }
}

/** The value of an `<input type="datetime-local">` in milliseconds; null when it is empty or no time. */
export function millisOf(local: string): number | null {
  const at = local === "" ? Number.NaN : new Date(local).getTime();
  return Number.isNaN(at) ? null : at;
}

/** For such an input: a time in the reader's zone, to the second. */
export function localOf(ms: number): string {
  const at = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return at.toISOString().slice(0, 19);
}

/** "0, 3, 5-7" as numbers; null for all; a sentence for what is neither. */
export function partitionsOf(text: string, count: number): number[] | null | string {
  if (text.trim() === "") return null;
  const found = new Set<number>();
  for (const part of text.split(",").map((one) => one.trim())) {
    const match = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(part);
    if (match === null) return `"${part}" is no partition: write 0, 3, 5-7.`;
    const first = Number(match[1]);
    const last = match[2] === undefined ? first : Number(match[2]);
    if (last < first || last >= count) return `There are partitions 0 to ${count - 1}.`;
    for (let number = first; number <= last; number++) found.add(number);
  }
  return [...found].sort((a, b) => a - b);
}

/** The address of the page that shows an event where it stands. */
export function browseAt(
  topic: string,
  event: { partition: number; redis_id: string },
): { path: string; query: { partition: string; id: string } } {
  return {
    path: `/topics/${encodeURIComponent(topic)}/browse`,
    query: { partition: String(event.partition), id: event.redis_id },
  };
}

/** The body of a produce request, with the payload's own text in it. */
export function produceBody(event: {
  type: string;
  key: string;
  payload: string;
  headers: { name: string; value: string }[];
  ack: string;
}): string {
  const fields = [`"event_type":${JSON.stringify(event.type)}`];
  if (event.key !== "") fields.push(`"partition_key":${JSON.stringify(event.key)}`);
  const headers = event.headers.filter((one) => one.name !== "");
  if (headers.length > 0) {
    fields.push(`"headers":${JSON.stringify(Object.fromEntries(headers.map((one) => [one.name, one.value])))}`);
  }
  fields.push(`"payload":${event.payload.trim()}`);
  return `{"events":[{${fields.join(",")}}],"ack":${JSON.stringify(event.ack)}}`;
}
