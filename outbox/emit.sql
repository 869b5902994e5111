-- outbox_emit writes an event of the running transaction into the log, and into no table: the outbox without a table
-- (Postgres 14 or later; docs/messages.md). It returns the event's id. With the transaction it is published or not.
--
--   select outbox_emit('order', 'order-1', 'OrderPlaced', '{"total": 12.50}');
--
-- The fields are those of the preset debezium; headers take columns: {headers: headers} under messages.
create or replace function outbox_emit(
	aggregatetype text, aggregateid text, type text, payload jsonb,
	headers jsonb default null, id uuid default gen_random_uuid(), prefix text default 'outbox'
) returns uuid
language plpgsql volatile as $$
begin
	if aggregatetype is null or aggregatetype = '' then
		raise exception 'outbox_emit: aggregatetype leads to the topic, and must not be null or empty' using errcode = 'null_value_not_allowed';
	end if;
	perform pg_logical_emit_message(true, prefix, (json_build_object(
		'id', id, 'aggregatetype', aggregatetype, 'aggregateid', aggregateid, 'type', type, 'payload', payload, 'headers', headers))::text);
	return id;
end
$$;
