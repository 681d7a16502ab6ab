import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { get, getExact, patch, path, postText, send, withQuery } from "../src/api/client";
import { Problem, problemOf } from "../src/api/problem";
import { currentToken, endedBecause, readClaims, signIn, tokenOfFragment } from "../src/api/session";

const kept = new Map<string, string>();
const asked: { url: string; init: RequestInit }[] = [];
let answers: Response[] = [];

beforeEach(() => {
  kept.clear();
  asked.length = 0;
  vi.stubGlobal("sessionStorage", {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  });
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    asked.push({ url, init });
    const next = answers.shift();
    if (next === undefined) throw new TypeError("Failed to fetch");
    return next;
  });
  signIn("a.b.c");
});

afterEach(() => vi.unstubAllGlobals());

const problem = (status: number, body: object, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(body), {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers },
  });

describe("requests", () => {
  it("carry the token in a header and never in the address", async () => {
    answers = [new Response("{}")];
    await get("/v1/topics");
    expect(new Headers(asked[0]!.init.headers).get("Authorization")).toBe("Bearer a.b.c");
    expect(asked[0]!.url).toBe("/v1/topics");
  });

  it("escape whatever a name holds", () => {
    expect(path`/v1/topics/${"a/b?c#d <x>"}/partitions/${3}`).toBe("/v1/topics/a%2Fb%3Fc%23d%20%3Cx%3E/partitions/3");
    expect(withQuery("/x", { a: "1&2", b: null, c: "", d: 0 })).toBe("/x?a=1%262&d=0");
  });

  it("send a body as it was written", async () => {
    answers = [new Response('{"results":[]}')];
    await postText("/v1/topics/t/events", '{"n":1.50}');
    expect(asked[0]!.init.body).toBe('{"n":1.50}');
  });

  it("answer with numbers to reckon with, and with digits to show where there are payloads", async () => {
    answers = [new Response('{"rate":5.0}'), new Response('{"payload":{"rate":5.0}}')];
    const { rate } = await get<{ rate: number }>("/v1/replays");
    expect(rate + 1).toBe(6);
    const exact = JSON.stringify(await getExact("/v1/topics/t/events"));
    expect(exact).toBe(JSON.rawJSON === undefined ? '{"payload":{"rate":5}}' : '{"payload":{"rate":5.0}}');
  });

  it("change what is named and nothing else", async () => {
    answers = [new Response('{"paused":true}')];
    expect(await patch("/v1/topics/t/groups/g", { paused: true })).toEqual({ paused: true });
    expect(asked[0]!.init).toMatchObject({ method: "PATCH", body: '{"paused":true}' });
    expect(new Headers(asked[0]!.init.headers).get("Content-Type")).toBe("application/json");
  });

  it("end the session on a 401, and only then", async () => {
    answers = [problem(403, { title: "Not allowed" }), problem(401, { title: "No", detail: "the token has expired" })];
    await expect(get("/a")).rejects.toMatchObject({ status: 403 });
    expect(currentToken()).toBe("a.b.c");
    await expect(get("/a")).rejects.toMatchObject({ status: 401 });
    expect(currentToken()).toBeNull();
    expect(endedBecause.value).toBe("the token has expired");
    expect(kept.size).toBe(0);
  });
});

describe("problems", () => {
  it("keep title and detail, and say what to do", async () => {
    answers = [problem(429, { type: "/problems/overloaded", title: "Overloaded", detail: "full", retry_after_ms: 2_500 })];
    const found = await send("GET", "/a").catch((error: unknown) => error as Problem);
    expect(found).toMatchObject({ status: 429, title: "Overloaded", detail: "full", slug: "overloaded" });
    expect((found as Problem).hint).toContain("3 seconds");
  });

  it("take Retry-After when the body is silent", async () => {
    answers = [new Response("busy", { status: 503, headers: { "Retry-After": "7" } })];
    await expect(send("GET", "/a")).rejects.toMatchObject({ retryAfterMs: 7_000 });
  });

  it("are made of a node that does not answer too", () => {
    expect(problemOf(new TypeError("Failed to fetch")).title).toBe("The node does not answer");
  });

  it("have a hint for everything the API may say", () => {
    for (const status of [0, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503]) {
      expect(new Problem(status, {}).hint).not.toBe("");
    }
  });
});

describe("tokens", () => {
  it("are taken from a fragment, and from nothing else", () => {
    expect(tokenOfFragment("#token=a.b.c")).toBe("a.b.c");
    for (const other of ["", "#/topics", "#token=", "?token=a.b.c"]) expect(tokenOfFragment(other)).toBeNull();
  });

  it("say who they are for, whatever language that is in", () => {
    const body = Buffer.from(JSON.stringify({ sub: "Jürgen", role: "admin", exp: 1 })).toString("base64url");
    expect(readClaims(`x.${body}.y`)).toMatchObject({ sub: "Jürgen", role: "admin" });
    for (const wrong of ["", "x", "x.!!.y", "x.e30.y"]) expect(readClaims(wrong)).toBeNull();
  });
});
