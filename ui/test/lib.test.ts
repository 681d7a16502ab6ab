import { describe, expect, it } from "vitest";
import { jsonError, parseExact, pretty } from "../src/api/json";
import type { Snapshot, StoredEvent } from "../src/api/types";
import { factsOf } from "../src/lib/facts";
import { ago, brief, bytes, count, direction, duration, lag, millis, oneLine, plural, rate } from "../src/lib/format";
import { localOf, millisOf, partitionsOf, produceBody, startOf } from "../src/lib/plan";
import { append, KEPT as POINTS, niceCeiling, pointsOf, totals } from "../src/lib/points";
import { visible } from "../src/lib/rows";
import { emptyTail, KEPT, matches, receive, resume, toNdjson } from "../src/lib/tail";

describe("numbers for people", () => {
  it("tell what is unknown from zero", () => {
    for (const format of [count, brief, rate, bytes, millis, duration]) {
      expect(format(null)).toBe("–");
      expect(format(undefined)).toBe("–");
      expect(format(0)).toMatch(/^0/);
    }
  });

  it("stay short", () => {
    expect(brief(9_999)).toBe("9,999");
    expect(brief(12_345)).toBe("12.3K");
    expect(rate(0.44)).toBe("0.4");
    expect(rate(1_234.5)).toBe("1,235");
    expect(bytes(1_536)).toBe("1.5 KiB");
    expect(bytes(200 * 2 ** 20)).toBe("200 MiB");
    expect(bytes(3 * 2 ** 40)).toBe("3.0 TiB");
    expect(millis(1.25)).toBe("1.3 ms");
    expect(plural(1, "entry", "entries")).toBe("1 entry");
    expect(plural(2_000, "event")).toBe("2,000 events");
  });

  it("give durations two units at most", () => {
    expect([400, 12_000, 200_000, 18_600_000, 183_600_000].map(duration)).toEqual([
      "0.4 s", "12 s", "3 min 20 s", "5 h 10 min", "2 d 3 h",
    ]);
    expect(duration(59_700)).toBe("60 s");
    expect(ago(1_000, 1_500)).toBe("now");
    expect(ago(0, 9_900)).toBe("9 s ago");
    expect(ago(0, 65_000)).toBe("1 min 5 s ago");
  });

  it("say at least where a part of a lag is unknown", () => {
    expect([lag(5, 0), lag(5, 1), lag(0, 1)]).toEqual(["5", "≥ 5", "–"]);
  });

  it("call small movements steady", () => {
    expect(direction(1_000, 5)).toBe("growing");
    expect(direction(1_000, -5)).toBe("falling");
    expect(direction(1_000, 1)).toBe("steady");
    expect(direction(0, 0)).toBe("steady");
    expect(direction(0, 54)).toBe("steady");
  });

  it("put any text on one line", () => {
    expect(oneLine("a\n\t b")).toBe("a b");
    expect(oneLine("x".repeat(1_000_000)).length).toBe(201);
  });
});

describe("JSON", () => {
  it("keeps what JavaScript has no number for, where the browser can", () => {
    const text = '{"big":12345678901234567890,"exact":1.50,"small":1}';
    const found = pretty(parseExact(text));
    if (JSON.rawJSON !== undefined) expect(found).toContain("12345678901234567890");
    expect(found).toContain('"small": 1');
  });

  it("says what is wrong with a payload", () => {
    expect(jsonError("{}")).toBeNull();
    expect(jsonError("")).toContain("needed");
    expect(jsonError("{a}")).not.toBeNull();
  });
});

describe("long lists", () => {
  it("show what is on the screen and a little more", () => {
    expect(visible(1_000, 36, 0, 360, 2)).toEqual({ first: 0, last: 12, above: 0, below: 988 * 36 });
    const middle = visible(1_000, 36, 18_000, 360, 2);
    expect(middle.above + middle.below + (middle.last - middle.first) * 36).toBe(36_000);
    expect(middle.first).toBe(498);
    expect(visible(1_000, 36, 1e9, 360, 2).last).toBe(1_000);
    expect(visible(0, 36, 0, 360)).toEqual({ first: 0, last: 0, above: 0, below: 0 });
  });
});

const event = (id: number, payload: unknown = { n: id }): StoredEvent => ({
  partition: 0,
  redis_id: `${id}-0`,
  event_type: "t",
  partition_key: null,
  timestamp_ms: id,
  headers: {},
  payload,
});

describe("a live tail", () => {
  it("has the latest first and an end", () => {
    let state = emptyTail();
    for (let n = 0; n < KEPT + 10; n++) state = receive(state, [event(n)], 0, false);
    expect(state.shown.length).toBe(KEPT);
    expect(state.shown[0]!.redis_id).toBe(`${KEPT + 9}-0`);
    expect(state.received).toBe(KEPT + 10);
  });

  it("stands still while paused, and loses nothing that was shown", () => {
    let state = receive(emptyTail(), [event(1), event(2)], 0, false);
    state = receive(state, [event(3), event(4)], 7, true);
    expect(state.shown.map((one) => one.redis_id)).toEqual(["2-0", "1-0"]);
    expect([state.held.length, state.dropped]).toEqual([2, 7]);
    state = resume(state);
    expect(state.shown.map((one) => one.redis_id)).toEqual(["4-0", "3-0", "2-0", "1-0"]);
    expect(state.held).toEqual([]);
  });

  it("is searched in everything an event has", () => {
    const one = { ...event(5, { city: "Köln" }), headers: { trace: "abc" }, partition_key: "user-1" };
    for (const needle of ["", "köln", "USER-1", "abc", "5-0"]) expect(matches(one, needle)).toBe(true);
    expect(matches(one, "nowhere")).toBe(false);
    expect(matches({ ...event(6), payload_head: "cut he" }, "cut he")).toBe(true);
  });

  it("is exported as one event a line", () => {
    const lines = toNdjson([event(1), event(2, "a\nb")]).split("\n");
    expect(lines.length).toBe(3);
    expect(JSON.parse(lines[1]!).payload).toBe("a\nb");
  });
});

describe("charts", () => {
  it("take the node's history and go on from it", () => {
    const points = pointsOf({ points: [[1, 2, 3, 4, 5, 6, null, 8, 9, 10]] });
    expect(points[0]).toEqual({
      at: 1, in: 2, out: 3, persisted: 4, unpersisted: 5, lag: 6, p50: null, p99: 8, rejected: 9, memory: 10,
    });
    const next = { ...points[0]!, at: 2 };
    expect(append(points, next).length).toBe(2);
    expect(append(points, points[0]!)).toBe(points);
    const many = Array.from({ length: POINTS }, (_, n) => ({ ...next, at: n + 2 }));
    expect(append(many, { ...next, at: 1e9 }).length).toBe(POINTS);
  });

  it("sum over topics and groups", () => {
    const group = { lag: 3, out_per_s: 2 };
    const topic = { in_per_s: 1, persisted_per_s: 1, unpersisted: 4, groups: [group, group] };
    const snapshot = {
      at_ms: 5, append: { p50_ms: 1, p99_ms: 2 }, rejected_per_s: 0, redis: { used_memory: 7 }, topics: [topic, topic],
    } as unknown as Snapshot;
    expect(totals(snapshot)).toMatchObject({ at: 5, in: 2, out: 8, lag: 12, unpersisted: 8, memory: 7 });
  });

  it("end at round numbers", () => {
    expect([0, 0.3, 1, 3, 11, 240, 1_000_001].map(niceCeiling)).toEqual([1, 0.5, 1, 5, 20, 250, 2_000_000]);
  });
});

describe("forms", () => {
  it("know where a group may begin", () => {
    expect(startOf({ kind: "new" })).toEqual({ start_id: "$" });
    expect(startOf({ kind: "all" })).toEqual({ start_id: "0-0" });
    expect(startOf({ kind: "id", id: " 17-3 " })).toEqual({ start_id: "17-3" });
    expect(typeof startOf({ kind: "id", id: "x" })).toBe("string");
    expect(typeof startOf({ kind: "time", local: "" })).toBe("string");
    const ms = 1_730_000_000_000;
    expect(startOf({ kind: "time", local: localOf(ms) })).toEqual({ start_ms: ms });
    expect(millisOf("nonsense")).toBeNull();
  });

  it("read lists of partitions", () => {
    expect(partitionsOf("", 8)).toBeNull();
    expect(partitionsOf("5-7, 0,3, 3", 8)).toEqual([0, 3, 5, 6, 7]);
    for (const wrong of ["8", "x", "3-1", "1,,2"]) expect(typeof partitionsOf(wrong, 8)).toBe("string");
  });

  it("send a payload as it was typed", () => {
    const body = produceBody({
      type: 'a"b', key: "", payload: ' {"n": 1.50} ', headers: [{ name: "h", value: "v" }, { name: "", value: "x" }], ack: "appended",
    });
    expect(body).toContain('"payload":{"n": 1.50}');
    expect(JSON.parse(body)).toEqual({
      events: [{ event_type: 'a"b', headers: { h: "v" }, payload: { n: 1.5 } }], ack: "appended",
    });
  });
});

describe("what actors tell", () => {
  it("is words, also where it is nested", () => {
    const replays = { rp_1: { source: "orders", target: "again", epoch: 1, copied: 1_400 } };
    expect(factsOf({ replays })).toEqual([
      { name: "replays", value: "rp_1: source orders, target again, epoch 1, copied 1,400" },
    ]);
    expect(factsOf({ replays: {} })).toEqual([]);
  });

  it("is a mailbox as one fact, and no nulls", () => {
    const found = factsOf({ depth: 3, max_count: 10_000, bytes: 1_024, max_bytes: 2_048, senders: 0, port: 9471, x: null, in_flight: 2_000 });
    expect(found).toEqual([
      { name: "mailbox", value: "3 of 10,000, 1.0 KiB of 2.0 KiB" },
      { name: "port", value: "9471" },
      { name: "in flight", value: "2,000" },
    ]);
  });
});
