/** The shapes the API answers with, as far as the dashboard reads them. */

export interface Config {
  version: string;
  node: string;
  grafana_url: string | null;
  prometheus_url: string | null;
  can_mint: boolean;
  max_body_bytes: number;
}

export interface Topic {
  topic: string;
  partitions: number;
  retention_ms: number | null;
  retention_bytes: number | null;
  history_ms: number | null;
  max_stream_len: number | null;
  created_ms: number;
}

export interface NodeInfo {
  id: string;
  url: string;
  started_ms: number;
  version: string;
}

export interface Check {
  name: string;
  ok: boolean;
  detail: string;
}

export interface LiveGroup {
  name: string;
  paused: boolean;
  consumers: number;
  pending: number;
  lag: number;
  lag_unknown: number;
  lag_ms: number;
  out_per_s: number;
  lag_per_s: number;
  lags: number[];
}

export interface LiveTopic {
  topic: string;
  partitions: number;
  length: number;
  unpersisted: number;
  longest: number;
  most_unpersisted: number;
  max_stream_len: number | null;
  in_per_s: number;
  persisted_per_s: number;
  groups: LiveGroup[];
}

export interface Restart {
  path: string;
  state: string;
  restarts: number;
  last_error: string | null;
  started_at_ms: number | null;
}

export interface TopicDetail {
  topic: string;
  length: number[];
  unpersisted: number[];
  last_id: string[];
  persisted_id: string[];
  owner: (string | null)[];
  in_per_s: number[];
}

export interface Snapshot {
  node: string;
  at_ms: number;
  sampled_age_ms: number | null;
  draining: boolean;
  ready: Check[];
  append: { p50_ms: number | null; p99_ms: number | null };
  rejected_per_s: number;
  rejected: Record<string, number>;
  redis: { ok: boolean; used_memory: number; maxmemory: number };
  postgres: { ok: boolean; detail: string };
  nodes: NodeInfo[];
  limits: {
    max_stream_len: number;
    max_unpersisted: number;
    redis_memory: number;
    mailbox_bytes: number;
    retention_ms: number;
    claim_idle_ms: number;
  };
  topics: LiveTopic[];
  restarts?: Restart[];
  detail?: TopicDetail;
}

export interface ConsumerInfo {
  name: string;
  pending: number;
  idle_ms: number;
}

export interface GroupPartition {
  partition: number;
  last_delivered_id: string;
  pending: number;
  lag: number | null;
  lag_ms: number;
  consumers: ConsumerInfo[];
}

export interface GroupSettings {
  topic: string;
  group: string;
  visibility: "appended" | "persisted";
  max_deliveries: number | null;
  claim_idle_ms: number | null;
  /** The name in use, also where none was set. */
  dead_letter_topic: string;
  paused: boolean;
}

export interface GroupDescription extends GroupSettings {
  pending: number;
  lag: number | null;
  partitions: GroupPartition[];
}

export interface ResetPartition {
  partition: number;
  from_id: string;
  to_id: string;
  pending: number;
  replayed: number;
  skipped: number;
  at_least: boolean;
}

export interface ResetAnswer {
  start_id: string;
  updated_partitions: number;
  discarded_pending: number;
  dry_run?: boolean;
  partitions?: ResetPartition[];
}

/** An event as history and tails have it. A tail cuts large payloads: then there is a head, and the size. */
export interface StoredEvent {
  partition: number;
  redis_id: string;
  event_type: string;
  partition_key: string | null;
  timestamp_ms: number;
  headers: Record<string, string>;
  payload?: unknown;
  payload_head?: string;
  payload_bytes?: number;
}

export interface EventPage {
  events: StoredEvent[];
  next_id: string | null;
}

export interface DeadLetter extends StoredEvent {
  letter_id: string;
  origin: { topic: string; partition: number; redis_id: string };
  reason: "nacked" | "timed_out";
  deliveries: number;
  consumer: string | null;
  died_ms: number;
  redriven: boolean;
}

export interface DeadLetterPage {
  dead_letter_topic: string;
  dead_letters: DeadLetter[];
  next_id: string | null;
}

export interface RedriveAnswer {
  redriven: number;
  already: number;
  unknown: string[];
  next_id: string | null;
}

export interface Replay {
  replay_id: string;
  topic: string;
  target_topic: string;
  state: string;
  copied: number;
  total: number | null;
  rate: number | null;
  eta_ms: number | null;
  error?: string | null;
}

export interface TreeNode {
  id: string;
  state: string;
  restarts: number;
  last_error: string | null;
  started_at: number | null;
  uptime: number | null;
  details: Record<string, unknown>;
  children: TreeNode[];
}

export interface ClusterPartition {
  topic: string;
  partition: number;
  owner: string | null;
  epoch: number | null;
  generation: number | null;
}

export interface Cluster {
  node: string;
  draining: boolean;
  nodes: NodeInfo[];
  partitions: ClusterPartition[];
  tree: TreeNode;
}
