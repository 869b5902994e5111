package debezium_test

// cases is the table of docs/debezium.md.
func cases() []parity {
	const (
		order   = "'order', '42', 'OrderPlaced', "
		columns = "aggregatetype text, aggregateid text, type text, payload text"
		noType  = "columns: {type: \"\"}"
	)
	// typed has one more column, which is what the case is about.
	typed := func(typ string) string { return columns + ", extra " + typ }
	extra := func(values ...string) []string {
		var rows []string
		for _, v := range values {
			rows = append(rows, order+"'{}', "+v)
		}
		return rows
	}
	// keyed and valued have a column of another type as the key or as the payload.
	keyed := func(typ string) string { return "aggregatetype text, aggregateid " + typ + ", type text, payload text" }
	keys := func(values ...string) []string {
		var rows []string
		for _, v := range values {
			rows = append(rows, "'order', "+v+", 'OrderPlaced', '{}'")
		}
		return rows
	}
	valued := func(typ string) string { return "aggregatetype text, aggregateid text, type text, payload " + typ }
	values := func(values ...string) []string {
		var rows []string
		for _, v := range values {
			rows = append(rows, order+v)
		}
		return rows
	}
	header := map[string]string{"table.fields.additional.placement": "extra:header"}
	const asHeader = "columns: {type: \"\"}\nheaders:\n  - {name: extra, value: \"{extra}\"}"
	all := []parity{
		{
			option: "all defaults", with: "the table of the README",
			rows: []string{
				order + `'{"total": 12.50, "items": []}'`, `'order', 'ключ 🔑', 'OrderPlaced', '"text"'`, `'shipment', '', '', 'null'`,
				`'a.b-c_D', '43', 'x', '[1, 1e400, 12345678901234567890.123]'`,
			},
			outbox:  "preset: debezium",
			differs: map[string]string{"headers": "tidemark also writes the type, as header `eventType`; `columns.type: \"\"` leaves it out"},
		},
		{
			option: "`table.fields.additional.placement=type:header:eventType`", with: "varchar",
			rows:   values(`'{"a": 1}'`, `null`),
			router: map[string]string{"table.fields.additional.placement": "type:header:eventType"},
			outbox: "preset: debezium",
		},
		{
			option: "`table.field.event.id`, `.key`, `.type`, `.payload`", with: "columns of other names",
			idName: "event_id", columns: "aggregatetype text, customer text, kind text, body text",
			rows: values("'plain text'"),
			router: map[string]string{
				"table.field.event.id": "event_id", "table.field.event.key": "customer", "table.field.event.type": "kind",
				"table.field.event.payload": "body", "table.fields.additional.placement": "kind:header:eventType",
			},
			outbox: "columns: {id: event_id, key: customer, type: kind, payload: body}",
		},
		{
			option: "`extended.headers.enabled=true`", with: "the default", differs: map[string]string{"headers": "the four headers __debezium.context.* name a connector and its task, which tidemark has not"}, rows: values(`'{"a": 1}'`),
			connector: map[string]string{"extended.headers.enabled": "true"},
		},
		{
			option: "`table.field.event.id`", with: "bigint", idType: "bigint",
			rows: values(`'{"a": 1}'`), outbox: noType,
		},
		{option: "`table.field.event.key`", with: "uuid", columns: keyed("uuid"), rows: keys("'6B1F0C3E-8F0A-4A57-9C36-2A1C1A4F7D10'")},
		{option: "`table.field.event.key`", with: "int", columns: keyed("int"), rows: keys("42", "-1")},
		{option: "`table.field.event.key`", with: "bigint", columns: keyed("bigint"), rows: keys("9223372036854775807")},
		{option: "`table.field.event.key`", with: "null, empty text", columns: keyed("text"), rows: keys("null", "''")},
		{option: "`table.field.event.key`", with: "numeric(10,2)", columns: keyed("numeric(10,2)"), rows: keys("12.50", "-0.01")},
		{option: "`table.field.event.key`", with: "numeric", differs: map[string]string{"key": "Debezium writes the address of a Java object, another for each row; tidemark the number"}, columns: keyed("numeric"), rows: keys("12.50")},
		{option: "`table.field.event.key`", with: "boolean", differs: map[string]string{"key": "Debezium writes true and false; tidemark t and f, as Postgres does"}, columns: keyed("boolean"), rows: keys("true")},
		{option: "`table.field.event.key`", with: "timestamptz", differs: map[string]string{"key": "Debezium writes `2026-11-22T10:00:00.123456Z`; tidemark `2026-11-22 10:00:00.123456+00`, as Postgres does (in a header it writes the former)"}, columns: keyed("timestamptz"), rows: keys("'2026-11-22 10:00:00.123456+00'")},
		{option: "`table.field.event.key`", with: "bytea", differs: map[string]string{"key": "Debezium writes the name of a Java object, the same for each key of that length; tidemark the bytes"}, columns: keyed("bytea"), rows: keys(`'\x0001ff'`)},
		{
			option: "`table.field.event.payload`", with: "text, null, empty text", columns: valued("text"),
			rows: values("'plain'", "null", "''", "E'  \\n'"),
		},
		{option: "`table.field.event.payload`", with: "json", columns: valued("json"), rows: values(`'{ "b":1,  "a" : [ ] }'`, "null")},
		{option: "`table.field.event.payload`", with: "jsonb", columns: valued("jsonb"), rows: values(`'{ "b":1,  "a" : [ ] }'`, "null")},
		{option: "`table.field.event.payload`", with: "uuid, int, bigint", columns: valued("uuid"), rows: values(`'6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10'`)},
		{option: "`table.field.event.payload`", with: "bigint", columns: valued("bigint"), rows: values(`42`)},
		{option: "`table.field.event.payload`", with: "numeric(10,2)", columns: valued("numeric(10,2)"), rows: values(`12.50`)},
		{option: "`table.field.event.payload`", with: "boolean", differs: map[string]string{"value": "Debezium writes true and false; tidemark t and f, as Postgres does"}, columns: valued("boolean"), rows: values(`true`)},
		{option: "`table.field.event.payload`", with: "timestamptz", differs: map[string]string{"value": "Debezium writes `2026-11-22T10:00:00.123456Z`; tidemark `2026-11-22 10:00:00.123456+00`, as Postgres does"}, columns: valued("timestamptz"), rows: values(`'2026-11-22 10:00:00.123456+00'`)},
		{option: "`table.field.event.payload`", with: "float8", differs: map[string]string{"value": "Debezium writes `1.0E10`, tidemark `10000000000`, as Postgres does"}, columns: valued("float8"), rows: values(`1e10`)},
		{option: "`table.field.event.payload`", with: "bytea, StringConverter", differs: map[string]string{"value": "Debezium writes the name of a Java object; tidemark the bytes"}, columns: valued("bytea"), rows: values(`'\x0001ff'`)},
		{
			option: "`value.converter=org.apache.kafka.connect.converters.ByteArrayConverter`", with: "bytea", columns: valued("bytea"),
			rows: values(`'\x0001ff'`, `''`, `null`), value: map[string]string{"type": "org.apache.kafka.connect.converters.ByteArrayConverter"},
		},
		{
			option: "`value.converter=io.debezium.converters.ByteArrayConverter`", with: "bytea", columns: valued("bytea"),
			rows: values(`'\x0001ff'`), value: map[string]string{"type": "io.debezium.converters.ByteArrayConverter"},
			differs: map[string]string{
				"error":  "Debezium's task fails: this converter takes no ByteBuffer, which a bytea column is; BinaryDataConverter does",
				"record": "tidemark writes the bytes",
			},
		},
		{
			option: "`value.converter=io.debezium.converters.BinaryDataConverter`", with: "bytea", columns: valued("bytea"),
			rows: values(`'\x0001ff'`, `''`, `null`), value: map[string]string{"type": "io.debezium.converters.BinaryDataConverter"},
		},
		{
			option: "`binary.handling.mode=base64`", with: "bytea, StringConverter", differs: map[string]string{"value": "Debezium writes Base64, tidemark the bytes; consumers need not decode any more"}, columns: valued("bytea"),
			rows: values(`'\x0001ff'`), connector: map[string]string{"binary.handling.mode": "base64"},
		},
		{
			option: "`table.field.event.timestamp`", with: "timestamp", columns: typed("timestamp"), rows: extra("'2026-11-22 10:00:00.123456'", "'2026-11-22 10:00:00'"),
			router: map[string]string{"table.field.event.timestamp": "extra"},
			outbox: "columns: {type: \"\", timestamp: extra}",
		},
		{
			option: "`table.field.event.timestamp`", with: "null", differs: map[string]string{"timestamp": "Debezium falls back to the time at which it read the row, tidemark to the time of the commit"}, columns: typed("timestamp"), rows: extra("null"),
			router: map[string]string{"table.field.event.timestamp": "extra"},
			outbox: "columns: {type: \"\", timestamp: extra}",
		},
		{
			option: "`table.field.event.timestamp`", with: "timestamptz", differs: map[string]string{"error": "Debezium takes timestamp alone, and its task fails", "record": "tidemark takes it"}, columns: typed("timestamptz"), rows: extra("'2026-11-22 10:00:00.123456+00'"),
			router: map[string]string{"table.field.event.timestamp": "extra"},
			outbox: "columns: {type: \"\", timestamp: extra}",
		},
		{
			option: "`table.field.event.timestamp`", with: "bigint", differs: map[string]string{"error": "Debezium takes timestamp alone, and its task fails", "record": "tidemark takes it, as milliseconds since 1970"}, columns: typed("bigint"), rows: extra("1795341600123"),
			router: map[string]string{"table.field.event.timestamp": "extra"},
			outbox: "columns: {type: \"\", timestamp: extra}",
		},
		{
			option: "`table.field.event.schema.version`", with: "int, StringConverter", columns: typed("int"), rows: extra("3"),
			router: map[string]string{"table.field.event.schema.version": "extra"},
		},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "text, null, empty text", columns: typed("text"), rows: extra("'tenant ü'", "null", "''"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "uuid", columns: typed("uuid"), rows: extra("'6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10'", "null"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "int, null", columns: typed("int"), rows: extra("-42", "null"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "bigint", columns: typed("bigint"), rows: extra("9223372036854775807"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "json, jsonb", columns: typed("jsonb"), rows: extra(`'{"a": [1, 2]}'`), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "timestamptz", columns: typed("timestamptz"), rows: extra("'2026-11-22 10:00:00.123456+00'", "'2026-11-22 10:00:00+00'", "'2026-11-22 12:00:00.5+02'", "null"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "boolean", columns: typed("boolean"), rows: extra("true", "false", "null"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "numeric(10,2)", columns: typed("numeric(10,2)"), rows: extra("12.50"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "float8", differs: map[string]string{"header extra": "Debezium writes `1.0E10`, tidemark `10000000000`, as Postgres does"}, columns: typed("float8"), rows: extra("0.1", "1e10"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "bytea", differs: map[string]string{"header extra": "Debezium writes Base64, tidemark the bytes"}, columns: typed("bytea"), rows: extra(`'\x0001ff'`), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "timestamp", differs: map[string]string{"header extra": "Debezium writes microseconds since 1970 (by `time.precision.mode`), tidemark `2026-11-22 10:00:00.123456`"}, columns: typed("timestamp"), rows: extra("'2026-11-22 10:00:00.123456'"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "date", differs: map[string]string{"header extra": "Debezium writes days since 1970 (by `time.precision.mode`), tidemark `2026-11-22`"}, columns: typed("date"), rows: extra("'2026-11-22'"), router: header, outbox: asHeader},
		{option: "`table.fields.additional.placement=COLUMN:header`", with: "text[]", differs: map[string]string{"header extra": "Debezium writes `[\"a\",\"b\"]`, tidemark `{a,b}`, as Postgres does; a jsonb column is the same in both"}, columns: typed("text[]"), rows: extra("'{a,b}'"), router: header, outbox: asHeader},
		{
			option: "`decimal.handling.mode=string`", with: "numeric as a header", columns: typed("numeric"), rows: extra("12.50", "12345678901234567890.123"),
			router: header, outbox: asHeader, connector: map[string]string{"decimal.handling.mode": "string"},
		},
		{
			option: "`header.converter=org.apache.kafka.connect.storage.StringConverter`", with: "text, int", columns: typed("int"), rows: extra("42", "null"),
			router: header, outbox: asHeader, header: stringConverter(),
		},
		{
			option: "`table.fields.additional.placement=COLUMN:header:ALIAS`, several", with: "text, bigint", columns: columns + ", tenant text, shard bigint", rows: values("'{}', 'acme', 7"),
			router: map[string]string{"table.fields.additional.placement": "tenant:header:x-tenant,type:header,shard:header"},
			outbox: "columns: {type: \"\"}\nheaders:\n  - {name: x-tenant, value: \"{tenant}\"}\n  - {name: type, value: \"{type}\"}\n  - {name: shard, value: \"{shard}\"}",
		},
		{
			option: "`table.fields.additional.placement=COLUMN:partition`", with: "int", columns: typed("int"), rows: extra("0", "1", "2"),
			router: map[string]string{"table.fields.additional.placement": "extra:partition"},
			outbox: "columns: {type: \"\", partition: extra}",
		},
		{
			option: "`table.fields.additional.placement=COLUMN:envelope`", with: "text, JsonConverter", differs: map[string]string{"value": "Debezium wraps the payload: `{\"payload\":…,\"tenant\":…}`; tidemark never changes a payload: make the column a header, or write it into the payload"}, columns: typed("text"), rows: extra("'acme'"),
			router: map[string]string{"table.fields.additional.placement": "extra:envelope:tenant"}, value: jsonConverter("false"),
		},
		{
			option: "`table.field.additional.missing=ignore`", with: "a column that is not there", columns: columns, rows: values("'{}'"),
			router: map[string]string{"table.fields.additional.placement": "extra:header", "table.field.additional.missing": "ignore"},
		},
		{
			option: "`table.field.additional.missing=error`", with: "a column that is not there", differs: map[string]string{"error": "Debezium's task fails at the first row", "record": "tidemark refuses at the start a header whose column is not there; here it is not configured"}, columns: columns, rows: values("'{}'"),
			router: map[string]string{"table.fields.additional.placement": "extra:header"},
		},
		{
			option: "`table.expand.json.payload=true`", with: "JsonConverter; text without white space", columns: valued("text"),
			rows:   values(`'{"b":1,"a":["x"],"c":{"d":true}}'`),
			router: map[string]string{"table.expand.json.payload": "true"}, value: jsonConverter("false"),
		},
		{
			option: "`table.expand.json.payload=true`", with: "JsonConverter; null", columns: valued("text"),
			rows:   values("null"),
			router: map[string]string{"table.expand.json.payload": "true"}, value: jsonConverter("false"),
			differs: map[string]string{"value": "Debezium writes the four letters null; tidemark a null value, a tombstone, as both do with a StringConverter"},
		},
		{
			option: "`table.expand.json.payload=true`", with: "JsonConverter; jsonb", differs: map[string]string{"value": "Debezium writes the same JSON without white space; tidemark leaves it as Postgres prints it"}, columns: valued("jsonb"),
			rows:   values(`'{"b": 1, "a": ["x"]}'`),
			router: map[string]string{"table.expand.json.payload": "true"}, value: jsonConverter("false"),
		},
		{
			option: "`table.expand.json.payload=true`", with: "JsonConverter; nulls, empty arrays, long numbers", differs: map[string]string{"value": "Debezium leaves nulls and empty arrays out, and rounds numbers to 64 bits; tidemark never changes a payload"}, columns: valued("text"),
			rows:   values(`'{"a":null,"b":[],"c":12345678901234567890.123}'`),
			router: map[string]string{"table.expand.json.payload": "true"}, value: jsonConverter("false"),
		},
		{
			option: "`table.expand.json.payload=true`, `table.json.payload.null.behavior=optional_bytes`", with: "JsonConverter", columns: valued("text"),
			rows:   values(`'{"a":null,"b":1}'`),
			router: map[string]string{"table.expand.json.payload": "true", "table.json.payload.null.behavior": "optional_bytes"}, value: jsonConverter("false"),
		},
		{
			option: "`table.expand.json.payload=true`", with: "JsonConverter with `schemas.enable=true`", differs: map[string]string{"value": "Debezium writes `{\"schema\":…,\"payload\":…}`; tidemark never changes a payload"}, columns: valued("text"),
			rows:   values(`'{"a":1}'`),
			router: map[string]string{"table.expand.json.payload": "true"}, value: jsonConverter("true"),
		},
		{
			option: "`table.expand.json.payload=true`", with: "StringConverter", differs: map[string]string{"value": "Debezium writes `Struct{a=1}`, which nothing reads; tidemark the JSON"}, columns: valued("text"),
			rows:   values(`'{"a":1}'`),
			router: map[string]string{"table.expand.json.payload": "true"},
		},
		{
			option: "`value.converter=org.apache.kafka.connect.json.JsonConverter`", with: "`schemas.enable=false`, without `table.expand.json.payload`", differs: map[string]string{"value": "Debezium writes the payload as one JSON string, in quotes; tidemark the payload: consumers decode once instead of twice"}, columns: valued("text"),
			rows: values(`'{"a":1}'`), value: jsonConverter("false"),
		},
		{
			option: "`value.converter=org.apache.kafka.connect.json.JsonConverter`", with: "`schemas.enable=true`, the converter's default", differs: map[string]string{"value": "Debezium writes `{\"schema\":…,\"payload\":\"…\"}`; tidemark the payload"}, columns: valued("text"),
			rows: values(`'{"a":1}'`), value: jsonConverter("true"),
		},
		{
			option: "`key.converter=org.apache.kafka.connect.json.JsonConverter`", with: "`schemas.enable=false`; text without quotes, backslashes and control characters", columns: columns,
			rows: values(`'{"a":1}'`), key: jsonConverter("false"), outbox: "columns: {type: \"\"}\nkey: '\"{aggregateid}\"'",
		},
		{
			option: "`key.converter=org.apache.kafka.connect.json.JsonConverter`", with: "`schemas.enable=true`, the converter's default", columns: columns,
			rows: values(`'{"a":1}'`), key: jsonConverter("true"),
			outbox: "columns: {type: \"\"}\nkey: '{{\"schema\":{{\"type\":\"string\",\"optional\":true}},\"payload\":\"{aggregateid}\"}}'",
		},
		{
			option: "`route.by.field`", with: "text", columns: typed("text"), rows: extra("'billing'", "'audit'"),
			router: map[string]string{"route.by.field": "extra"}, outbox: "columns: {type: \"\", topic: extra}",
		},
		{
			option: "`route.topic.replacement`", with: "`app.${routedByValue}.v1`", columns: columns, rows: values("'{}'"),
			router: map[string]string{"route.topic.replacement": "app.${routedByValue}.v1"}, outbox: noType + "\ntopic: app.{aggregatetype}.v1",
		},
		{
			option: "`route.topic.replacement`", with: "one topic for all", columns: columns, rows: values("'{}'"),
			router: map[string]string{"route.topic.replacement": "events"}, outbox: noType + "\ntopic: events",
		},
		{
			option: "`route.topic.regex`", with: "`(.*)-(.*)` to `$2.$1`", differs: map[string]string{"topic": "tidemark takes the column as it is; have whoever writes the row, or a trigger before insert, write the topic"}, columns: columns, rows: []string{"'order-eu', '42', 'x', '{}'", "'order', '42', 'x', '{}'"},
			router: map[string]string{"route.topic.regex": "(.*)-(.*)", "route.topic.replacement": "$2.$1"},
		},
		{
			option: "`route.tombstone.on.empty.payload=false`", with: "null, empty text", columns: columns, rows: values("null", "''"),
		},
		{
			option: "`route.tombstone.on.empty.payload=true`", with: "null, jsonb", rows: values("null", "'{}'", `'""'`),
			router: map[string]string{"route.tombstone.on.empty.payload": "true"},
		},
		{
			option: "`route.tombstone.on.empty.payload=true`", with: "empty text, blank text", differs: map[string]string{"value": "Debezium writes a null value; tidemark one of no bytes, or the blanks: a row that stands for a deletion has a null payload"}, columns: columns, rows: values("''", "'  '"),
			router: map[string]string{"route.tombstone.on.empty.payload": "true"},
		},
		{
			option: "`tracing.span.context.field`", with: "null", columns: columns + ", tracingspancontext text", rows: values("'{}', null"),
		},
		{
			option: "`tracing.span.context.field`", with: "a context, with OpenTelemetry in the worker", differs: map[string]string{"headers": "Debezium opens a span of its own and writes that as traceparent; tidemark passes on what the service wrote (`columns.traceparent`, `columns.tracestate`)"}, columns: columns + ", tracingspancontext text",
			rows: values("'{}', E'traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\\n'"),
		},
		{
			option: "`table.op.invalid.behavior=warn`", with: "UPDATE and DELETE", columns: columns, rows: values("'{}'", "'{}'"),
			after: []string{"update TABLE set payload = 'other'", "delete from TABLE"},
		},
		{
			option: "`table.op.invalid.behavior=error`", with: "UPDATE", columns: columns, rows: values("'{}'"),
			router: map[string]string{"table.op.invalid.behavior": "error"}, after: []string{"update TABLE set payload = 'other'"},
		},
		{
			option: "`table.op.invalid.behavior=fatal`", with: "UPDATE", differs: map[string]string{"error": "Debezium's task fails; tidemark's publication has no updates, so it never sees one"}, columns: columns, rows: values("'{}'"),
			router: map[string]string{"table.op.invalid.behavior": "fatal"}, after: []string{"update TABLE set payload = 'other'"},
		},
	}
	return all
}
