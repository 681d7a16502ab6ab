import { describe, expect, it } from "vitest";
import { Problem } from "../src/api/problem";
import type { GroupSettings, LiveGroup, RedriveAnswer } from "../src/api/types";
import { follow, KEPT, type LagPoint } from "../src/lib/lag";
import { browseAt } from "../src/lib/plan";
import { CHUNK, PATIENCE, Redrive, type RedriveBody, type Tally, type To, type Wish } from "../src/lib/redrive";
import { changesOf, EMPTY, formOf } from "../src/lib/settings";

/** A node that answers what it is given, in order; a Problem is thrown. */
function talk(to: To, wish: Wish, answers: (Partial<RedriveAnswer> | Problem)[]) {
  const redrive = new Redrive(to, wish);
  const asked: RedriveBody[] = [];
  const waits: number[] = [];
  const tallies: Tally[] = [];
  let stopped = false;
  const run = (): Promise<void> => {
    stopped = false;
    return redrive.run(
      async (body) => {
        asked.push(body);
        const next = answers.shift();
        if (next === undefined) throw new Error("asked once more than expected");
        if (next instanceof Problem) throw next;
        return { redriven: 0, already: 0, unknown: [], next_id: null, ...next };
      },
      (tally) => tallies.push(tally),
      () => stopped,
      async (ms) => void waits.push(ms),
    );
  };
  return { redrive, asked, waits, tallies, run, stop: () => (stopped = true) };
}

const busy = (ms = 300): Problem => new Problem(429, { retry_after_ms: ms });

describe("sending dead letters back", () => {
  it("goes on with all of them until there is no more", async () => {
    const { redrive, asked, run } = talk("topic", { from: null }, [
      { redriven: 100, next_id: "p0@5-0" },
      { already: 3, next_id: "p2@0-0" },
      { redriven: 7 },
    ]);
    await run();
    expect(asked).toEqual([
      { to: "topic", all: true },
      { to: "topic", all: true, from_id: "p0@5-0" },
      { to: "topic", all: true, from_id: "p2@0-0" },
    ]);
    expect(redrive.done).toBe(true);
    expect(redrive.tally).toEqual({ redriven: 107, already: 3, unknown: 0, failed: 0 });
  });

  it("sends each chosen letter in one request, and few in each", async () => {
    const ids = Array.from({ length: 2 * CHUNK + 1 }, (_, n) => `p0@${n}-0`);
    const { redrive, asked, run } = talk("group", { ids }, [
      { redriven: CHUNK },
      { redriven: CHUNK - 2, unknown: ["p0@100-0", "p0@101-0"] },
      { redriven: 1 },
    ]);
    await run();
    expect(asked.flatMap((body) => ("ids" in body ? body.ids : []))).toEqual(ids);
    expect(asked.every((body) => body.to === "group" && "ids" in body && body.ids.length <= CHUNK)).toBe(true);
    expect(redrive.tally).toEqual({ redriven: 2 * CHUNK - 1, already: 0, unknown: 2, failed: 0 });
    expect(redrive.done).toBe(true);
  });

  it("tells how far it is after each answer", async () => {
    const { tallies, run } = talk("group", { from: null }, [{ redriven: 2, next_id: "p0@1-0" }, { redriven: 3 }]);
    await run();
    expect(tallies.map((one) => one.redriven)).toEqual([2, 5]);
  });

  it("stops after the request that is on its way, and can go on from there", async () => {
    const said = talk("group", { from: null }, [{ redriven: 1, next_id: "p0@9-0" }, { redriven: 2 }]);
    const first = said.run();
    said.stop();
    await first;
    expect([said.redrive.done, said.redrive.tally.redriven]).toEqual([false, 1]);
    await said.run();
    expect(said.asked[1]).toEqual({ to: "group", all: true, from_id: "p0@9-0" });
    expect([said.redrive.done, said.redrive.tally.redriven]).toEqual([true, 3]);
  });

  it("waits as long as a full topic asks, but not for ever", async () => {
    const { redrive, waits, run } = talk("group", { from: null }, [busy(300), busy(60_000), { redriven: 1 }]);
    await run();
    expect(waits).toEqual([300, 5_000]);
    expect(redrive.tally).toMatchObject({ redriven: 1, failed: 2 });
  });

  it("gives up on a node that keeps refusing, and repeats the same request when told to go on", async () => {
    const refusals = Array.from({ length: PATIENCE }, () => busy());
    const { redrive, asked, run } = talk("group", { ids: ["p0@1-0"] }, [...refusals, { redriven: 1 }]);
    await expect(run()).rejects.toMatchObject({ status: 429 });
    expect(redrive.done).toBe(false);
    await run();
    expect(asked.at(-1)).toEqual({ to: "group", ids: ["p0@1-0"] });
    expect(redrive.done).toBe(true);
  });

  it("does not repeat what was asked wrongly", async () => {
    const { asked, run } = talk("group", { from: null }, [new Problem(403, { title: "Forbidden" })]);
    await expect(run()).rejects.toMatchObject({ status: 403 });
    expect(asked.length).toBe(1);
  });
});

const SETTINGS: GroupSettings = {
  topic: "orders",
  group: "workers",
  visibility: "appended",
  max_deliveries: 5,
  claim_idle_ms: 1_500,
  dead_letter_topic: "orders.dlq.workers",
  paused: false,
};

describe("a group's settings", () => {
  it("are shown in seconds, with nothing where the default holds", () => {
    expect(formOf(SETTINGS)).toEqual({ deliveries: "5", idle: "1.5", letters: "orders.dlq.workers" });
    expect(formOf({ ...SETTINGS, max_deliveries: null, claim_idle_ms: null })).toMatchObject({ deliveries: "", idle: "" });
  });

  it("are sent where they were changed, and nowhere else", () => {
    const before = formOf(SETTINGS);
    expect(changesOf(before, { ...before })).toEqual({});
    expect(changesOf(before, { ...before, idle: "30" })).toEqual({ claim_idle_ms: 30_000 });
    expect(changesOf(before, { ...EMPTY })).toEqual({ max_deliveries: null, claim_idle_ms: null, dead_letter_topic: null });
    expect(changesOf(EMPTY, { ...EMPTY, letters: " morgue " })).toEqual({ dead_letter_topic: "morgue" });
  });

  it("are read from fields that hand out numbers", () => {
    const typed = { ...EMPTY, deliveries: 7 as unknown as string, idle: 0.25 as unknown as string };
    expect(changesOf(EMPTY, typed)).toEqual({ max_deliveries: 7, claim_idle_ms: 250 });
    expect(changesOf({ ...EMPTY, deliveries: "7" }, { ...EMPTY, deliveries: 7 as unknown as string })).toEqual({});
  });
});

describe("the lag of a group", () => {
  const group = { lags: [5, 6, 7], lag: 7 } as LiveGroup;

  it("begins with the node's last minute and goes on from there", () => {
    const first = follow([], group, 10_000);
    expect(first).toEqual([{ at: 6_000, lag: 5 }, { at: 8_000, lag: 6 }, { at: 10_000, lag: 7 }]);
    expect(follow(first, { ...group, lag: 9 }, 12_000).at(-1)).toEqual({ at: 12_000, lag: 9 });
  });

  it("is not remembered without end", () => {
    let points: LagPoint[] = [];
    for (let n = 0; n < KEPT + 50; n++) points = follow(points, group, n);
    expect([points.length, points.at(-1)!.at]).toEqual([KEPT, KEPT + 49]);
  });
});

describe("the address of an event", () => {
  it("escapes the topic and names partition and id", () => {
    expect(browseAt("a/b", { partition: 3, redis_id: "17-0" })).toEqual({
      path: "/topics/a%2Fb/browse",
      query: { partition: "3", id: "17-0" },
    });
  });
});
