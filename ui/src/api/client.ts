/** Requests to the node: JSON in and out, the token in a header, every failure a Problem. */

import { parseExact } from "./json";
import { Problem, type ProblemBody, problemOf } from "./problem";
import { currentToken, signOut } from "./session";

export type Query = Record<string, string | number | null | undefined>;

/** A path of names that may hold anything: `/v1/topics/${name}` with the name escaped. */
export function path(parts: TemplateStringsArray, ...names: (string | number)[]): string {
  return parts.reduce((whole, part, n) => whole + part + (n < names.length ? encodeURIComponent(names[n]!) : ""), "");
}

export function withQuery(to: string, query: Query): string {
  const found = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (found.length === 0) return to;
  return `${to}?${new URLSearchParams(found.map(([name, value]) => [name, String(value)])).toString()}`;
}

/** The bare answer; a Problem when it is none of the good ones. A 401 ends the session. */
export async function send(method: string, to: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  const token = currentToken();
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  let answer: Response;
  try {
    answer = await fetch(to, { ...options, method, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw problemOf(error);
  }
  if (answer.ok) return answer;
  const problem = await readProblem(answer);
  if (problem.status === 401 && token !== null && token === currentToken()) signOut(problem.detail || problem.title);
  throw problem;
}

async function readProblem(answer: Response): Promise<Problem> {
  let body: ProblemBody = {};
  if ((answer.headers.get("Content-Type") ?? "").includes("json")) {
    body = (await answer.json().catch(() => ({}))) as ProblemBody;
  }
  return new Problem(answer.status, body, answer.headers.get("Retry-After"));
}

async function read<T>(answer: Response): Promise<T> {
  return JSON.parse(await answer.text()) as T;
}

export async function get<T>(to: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return read<T>(await send("GET", withQuery(to, query), signal ? { signal } : {}));
}

/** For answers that hold payloads: their numbers keep their digits, which makes objects of some that one cannot reckon with. */
export async function getExact<T>(to: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const answer = await send("GET", withQuery(to, query), signal ? { signal } : {});
  return parseExact<T>(await answer.text());
}

export async function post<T>(to: string, body: unknown): Promise<T> {
  return postText<T>(to, JSON.stringify(body));
}

/** A body that is JSON already: a payload goes out as it was typed. */
export async function postText<T>(to: string, body: string): Promise<T> {
  return read<T>(await send("POST", to, { body, headers: { "Content-Type": "application/json" } }));
}

export async function put<T>(to: string, body: unknown): Promise<T> {
  const options = { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return read<T>(await send("PUT", to, options));
}

export async function patch<T>(to: string, body: unknown): Promise<T> {
  const options = { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return read<T>(await send("PATCH", to, options));
}

export async function remove(to: string): Promise<void> {
  await send("DELETE", to);
}
