-- The tables and functions by which a consumer has every event's effect exactly once. They belong into the database, and
-- the schema, in which the consumer keeps its own data: the row that says "handled" is committed together with the effect.
-- It may be run again. Everything is made in the first schema of search_path, and found there by the same.

-- An event that was handled (or dropped as stale, or parked): one row for each consumer and id.
create table if not exists inbox (
  consumer        text not null,
  id              text not null,
  kafka_topic     text,                               -- where the record was; what prune goes by
  kafka_partition integer,
  kafka_offset    bigint,
  handled_at      timestamptz not null default now(),
  primary key (consumer, id)
);
create index if not exists inbox_handled_at on inbox (handled_at);

-- The last position that was seen of each key, for consumers that drop what is stale.
create table if not exists inbox_positions (
  consumer        text not null,
  source          text not null,                      -- positions of different sources cannot be compared
  kafka_topic     text not null,
  key             bytea not null,
  position        text collate "C" not null,
  kafka_partition integer,
  kafka_offset    bigint,
  seen_at         timestamptz not null default now(),
  primary key (consumer, source, kafka_topic, key)
);
create index if not exists inbox_positions_seen_at on inbox_positions (seen_at);

-- inbox_once notes that the consumer handles the event, and returns true if it has not before: the caller then does its
-- work in the same transaction. On false it has nothing to do, and commits. It waits while another transaction
-- handles the same event, and returns false or true as that one is committed or rolled back.
--
-- With a key and a position (header tidemark-position) it returns false, too, for an event that is not later than
-- the last one that the consumer has seen of that key, topic and source (header tidemark-source).
create or replace function inbox_once(
  consumer        text,
  id              text,
  key             bytea default null,
  log_position    text default null,
  source          text default '',
  kafka_topic     text default null,
  kafka_partition integer default null,
  kafka_offset    bigint default null
) returns boolean language sql volatile as $$
  with new as (
    insert into inbox as i (consumer, id, kafka_topic, kafka_partition, kafka_offset)
    values ($1, $2, $6, $7, $8)
    on conflict (consumer, id) do nothing
    returning 1
  ), fresh as (
    insert into inbox_positions as p (consumer, source, kafka_topic, key, position, kafka_partition, kafka_offset)
    select $1, $5, coalesce($6, ''), $3, $4, $7, $8 from new where $3 is not null and $4 is not null
    on conflict (consumer, source, kafka_topic, key) do update
      set position = excluded.position, kafka_partition = excluded.kafka_partition, kafka_offset = excluded.kafka_offset, seen_at = now()
      where p.position < excluded.position
    returning 1
  )
  select case when $3 is null or $4 is null then exists (select from new) else exists (select from fresh) end
$$;

-- Events that a consumer could not handle, and the later ones of their keys, which wait behind them. Their ids are in the
-- inbox: whoever handles them does so from here. To release, and to let the key go without an event:
--   update inbox_parked set held = false, attempts = 0, retry_at = now() where consumer = 'billing' and id = '4711';
--   delete from inbox_parked where consumer = 'billing' and id = '4711';
create table if not exists inbox_parked (
  seq             bigint generated always as identity primary key, -- in the order of each key
  consumer        text not null,
  id              text not null,
  held            boolean not null,                   -- waits for somebody's decision; else only for what is before it
  reason          text not null default '',
  attempts        integer not null default 0,
  retry_at        timestamptz not null default now(),
  parked_at       timestamptz not null default now(),
  source          text not null,
  position        text not null,
  type            text not null,
  kafka_topic     text not null,
  kafka_partition integer not null,
  kafka_offset    bigint not null,
  record_time     timestamptz not null,
  key             bytea,
  value           bytea,
  headers         json not null,                      -- [{"key": "…", "value": "base64, or null"}, …]
  unique (consumer, id)
);
create index if not exists inbox_parked_key on inbox_parked (consumer, kafka_topic, md5(key), seq);
