/** Server-sent events read with fetch, because EventSource cannot send a token in a header. */

import { send } from "./client";
import { problemOf } from "./problem";

export interface ServerEvent {
  event: string;
  data: string;
}

/** Text in pieces of any size to whole events, as the HTML standard has them: CR, LF or CRLF, comments left out. */
export class SseParser {
  private rest = "";
  private event = "";
  private data: string[] = [];

  feed(text: string): ServerEvent[] {
    const found: ServerEvent[] = [];
    this.rest += text;
    for (;;) {
      const end = this.rest.search(/[\r\n]/);
      // A CR at the very end may be the first half of a CRLF: wait for more.
      if (end < 0 || (this.rest[end] === "\r" && end === this.rest.length - 1)) return found;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith("\r\n", end) ? 2 : 1));
      if (line === "") {
        if (this.data.length > 0) found.push({ event: this.event || "message", data: this.data.join("\n") });
        this.event = "";
        this.data = [];
      } else this.field(line);
    }
  }

  private field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.event = value;
    if (name === "data") this.data.push(value);
  }
}

/** Milliseconds before the next attempt: doubled each time up to 15 s, and never in step with other pages. */
export function backoff(failures: number, chance: number = Math.random()): number {
  return Math.min(15_000, 500 * 2 ** Math.min(failures, 10)) * (0.5 + chance / 2);
}

export interface StreamHandlers {
  onEvent: (event: ServerEvent) => void;
  onState: (state: StreamState, problem: ReturnType<typeof problemOf> | null) => void;
}

export type StreamState = "connecting" | "open" | "lost";

/** Silence for so long means the line is dead: the node says something every ten seconds at least. */
const SILENCE_MS = 25_000;

/** Reads a stream until told to stop, and comes again whenever it breaks. */
export function openStream(to: string, handlers: StreamHandlers): () => void {
  const stopped = new AbortController();
  let failures = 0;

  async function once(): Promise<void> {
    const line = new AbortController();
    const stop = (): void => line.abort();
    stopped.signal.addEventListener("abort", stop);
    let quiet = setTimeout(stop, SILENCE_MS);
    try {
      const answer = await send("GET", to, { headers: { Accept: "text/event-stream" }, signal: line.signal });
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new SseParser();
      handlers.onState("open", null);
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        failures = 0;
        clearTimeout(quiet);
        quiet = setTimeout(stop, SILENCE_MS);
        for (const event of parser.feed(value)) handlers.onEvent(event);
      }
    } finally {
      clearTimeout(quiet);
      stopped.signal.removeEventListener("abort", stop);
    }
  }

  async function forever(): Promise<void> {
    while (!stopped.signal.aborted) {
      handlers.onState("connecting", null);
      let problem = null;
      try {
        await once();
      } catch (error) {
        problem = problemOf(error);
      }
      if (stopped.signal.aborted) return;
      handlers.onState("lost", problem);
      // What the client asked wrongly does not get better by asking again; overload and absence do.
      if (problem !== null && problem.status >= 400 && problem.status < 500 && problem.status !== 429) return;
      await new Promise((go) => setTimeout(go, Math.max(problem?.retryAfterMs ?? 0, backoff(failures++))));
    }
  }

  void forever();
  return () => stopped.abort();
}
