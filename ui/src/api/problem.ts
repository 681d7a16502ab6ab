/** Everything that can go wrong with a request, as a person should read it: what, why, and what to do. */

export interface ProblemBody {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  retry_after_ms?: number;
  errors?: { loc: (string | number)[]; msg: string }[];
}

export class Problem extends Error {
  readonly status: number;
  readonly title: string;
  readonly detail: string;
  readonly slug: string;
  readonly retryAfterMs: number | null;

  constructor(status: number, body: ProblemBody, retryAfter: string | null = null) {
    super(body.detail ?? body.title ?? `The node answered ${status}.`);
    this.status = status;
    this.title = body.title ?? (status === 0 ? "The node does not answer" : `Status ${status}`);
    this.detail = body.detail ?? "";
    this.slug = (body.type ?? "").replace("/problems/", "");
    const seconds = retryAfter === null ? Number.NaN : Number(retryAfter);
    this.retryAfterMs = body.retry_after_ms ?? (Number.isFinite(seconds) ? seconds * 1000 : null);
  }

  /** The next thing to do about it. */
  get hint(): string {
    switch (this.status) {
      case 0:
        return "Is it running, and is this machine on its network? The page tries again by itself.";
      case 401:
        return "Sign in again: the token is missing, expired, or made for other nodes.";
      case 403:
        return this.slug === "wrong-secret"
          ? "The secret is AUTH_ADMIN_SECRET of this node."
          : "Sign in with a token whose role and topics allow it.";
      case 404:
        return "It may have been deleted meanwhile. Go back to the list and look again.";
      case 409:
        return "Reload to see what is there now, then decide.";
      case 410:
        return "Those events are not kept any more. Start at the beginning: that is the first one that is.";
      case 413:
        return "Send less at a time, or raise MAX_BODY_BYTES on the nodes.";
      case 422:
        return "Correct what is named and send it again.";
      case 429:
        return `Wait ${waiting(this.retryAfterMs)} and try again: the system is protecting itself.`;
      case 503:
        return `A backend is away or the node is stopping. Try again in ${waiting(this.retryAfterMs)}.`;
      default:
        return this.status >= 500 ? "The node's log says more." : "";
    }
  }
}

function waiting(ms: number | null): string {
  const seconds = Math.max(1, Math.ceil((ms ?? 1000) / 1000));
  return seconds === 1 ? "a second" : `${seconds} seconds`;
}

/** Any failure as a problem. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new Problem(0, { detail: error instanceof TypeError ? "No connection to the node." : detail });
}
