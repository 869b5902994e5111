-- The outbox table, as the Event Router of Debezium reads it and tidemark by default. An application inserts a row here
-- in the transaction that changes its own tables.
--
-- This file is the one definition: `tidemark init` creates this table, and Schema returns it. Where it says public.outbox,
-- they put the table's own name.
create table public.outbox (
	id            uuid         primary key default gen_random_uuid(),
	aggregatetype varchar(255) not null,
	aggregateid   varchar(255) not null,
	type          varchar(255) not null,
	payload       jsonb
)
