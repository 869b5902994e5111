-- The outbox table as the Debezium Event Router expects it. The application writes a row here in the transaction that
-- changes its own tables; the relay creates its publication and its slot itself.
create table public.outbox (
    id            uuid         primary key default gen_random_uuid(),
    aggregatetype varchar(255) not null, -- the topic: outbox.event.<aggregatetype>
    aggregateid   varchar(255) not null, -- the key: events of one aggregate stay in order
    type          varchar(255) not null, -- header eventType
    payload       jsonb                  -- the value; null becomes a tombstone
);
