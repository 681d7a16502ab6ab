import { describe, expect, it } from "vitest";
import { backoff, SseParser } from "../src/api/sse";

describe("the parser of server-sent events", () => {
  const stream = 'event: snapshot\r\ndata: {"a":1}\r\n\r\n:\n\nevent: events\ndata: one\ndata:two\n\n: note\ndata: x\r\r';
  const events = [
    { event: "snapshot", data: '{"a":1}' },
    { event: "events", data: "one\ntwo" },
  ];

  it("reads CR, LF and CRLF, passes comments over, and joins lines of data", () => {
    expect(new SseParser().feed(`${stream}\n`)).toEqual([...events, { event: "message", data: "x" }]);
  });

  it("does not care where the pieces end", () => {
    for (let size = 1; size < 20; size++) {
      const parser = new SseParser();
      const found = [];
      for (let at = 0; at < stream.length; at += size) found.push(...parser.feed(stream.slice(at, at + size)));
      expect(found.slice(0, 2)).toEqual(events);
    }
  });

  it("says nothing of an event that has not ended", () => {
    const parser = new SseParser();
    expect(parser.feed("event: a\ndata: 1\n")).toEqual([]);
    expect(parser.feed("\n")).toEqual([{ event: "a", data: "1" }]);
    expect(parser.feed("event: b\n\n")).toEqual([]);
  });
});

describe("coming again", () => {
  it("waits longer each time, to a limit, and never in step", () => {
    expect(backoff(0, 0)).toBe(250);
    expect(backoff(0, 1)).toBe(500);
    expect(backoff(3, 1)).toBe(4_000);
    expect(backoff(50, 1)).toBe(15_000);
  });
});
