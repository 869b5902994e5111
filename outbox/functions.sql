-- What writes an event from SQL, for applications in other languages: `tidemark init --functions` creates these, and
-- Functions returns them. Where it says public.outbox, they put the table's own name. Statements are separated by blank
-- lines.

-- A UUID of version 7, whose first 48 bits are the milliseconds since 1970: ids that are close in time are close in the
-- index, and tidemark finds an event's record by the time in its id. Postgres 18 has its own.
create or replace function public.outbox_uuidv7() returns uuid language plpgsql volatile parallel safe as $body$
declare
	us bigint;
begin
	if current_setting('server_version_num')::int >= 180000 then
		return uuidv7();
	end if;
	us := extract(epoch from clock_timestamp()) * 1000000;
	-- 48 bits of milliseconds, the version, 12 bits of the millisecond's fraction; the rest stays random, with its variant.
	return encode(overlay(uuid_send(gen_random_uuid())
		placing int8send((us / 1000 << 16) | x'7000'::int | (us % 1000 * 4096 / 1000)) from 1 for 8), 'hex')::uuid;
end
$body$

-- Writes one event in the transaction of the caller, who needs the right to insert into the table, and returns its id. A
-- null payload is a tombstone. The order of the calls is the order of publishing.
create or replace function public.outbox_publish(topic text, key text, type text, payload jsonb, id uuid default null)
returns uuid language plpgsql volatile as $body$
declare
	event uuid := coalesce($5, public.outbox_uuidv7());
	bytes int := coalesce(octet_length($4::text), 0) + coalesce(octet_length($2), 0) + coalesce(octet_length($3), 0);
begin
	-- The topic is outbox.event.<topic>, and Kafka gives it 249 characters.
	if $1 is null or $1 !~ '^[A-Za-z0-9._-]{1,236}$' then
		raise invalid_parameter_value using
			message = format('outbox_publish: topic %L: Kafka takes 1 to 236 letters, digits, ".", "_" and "-" behind outbox.event.', left($1, 60));
	end if;
	if coalesce($2, '') = '' or length($2) > 255 then
		raise invalid_parameter_value using
			message = format('outbox_publish: key %L: it takes 1 to 255 characters; events of one key stay in order', left($2, 60));
	end if;
	if coalesce($3, '') = '' or length($3) > 255 then
		raise invalid_parameter_value using
			message = format('outbox_publish: type %L: it takes 1 to 255 characters', left($3, 60));
	end if;
	-- max.message.bytes of Kafka's topics, with the room that DefaultMaxBytes of the Go library leaves.
	if bytes > 1048588 - 512 then
		raise program_limit_exceeded using
			message = format('outbox_publish: the event has %s bytes, and Kafka takes a record of 1048588: put what is large elsewhere, and its address into the event', bytes);
	end if;
	insert into public.outbox (id, aggregatetype, aggregateid, type, payload) values (event, $1, $2, $3, $4);
	return event;
end
$body$
