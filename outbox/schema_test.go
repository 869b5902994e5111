package outbox

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// What the compose file creates is what init would. (What the tutorial shows, the test of the docs holds against init.)
func TestTheComposeFileHasTheSameTable(t *testing.T) {
	plain := func(sql string) string {
		sql = regexp.MustCompile(`--.*`).ReplaceAllString(sql, "")
		return strings.Join(strings.Fields(sql), " ")
	}
	const file = "../deploy/compose/outbox.sql"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plain(string(text)), plain(Schema("public.outbox"))) {
		t.Errorf("%s has another table than schema.sql", file)
	}
}

func TestTheNamesOfFunctionsFollowTheTable(t *testing.T) {
	for table, name := range map[string]string{
		"public.outbox": "public.outbox_publish", "sales.events": "sales.events_publish", `"Sales"."Out box"`: `"Sales"."Out box_publish"`,
	} {
		all := strings.Join(Functions(table), "\n")
		if !strings.Contains(all, "function "+name+"(") || !strings.Contains(all, "insert into "+table+" (") || table != tableInSQL && strings.Contains(all, tableInSQL) {
			t.Errorf("%s: %s", table, all)
		}
	}
}

// Postgres 18 has uuidv7(); the ones before have what the function makes itself.
func TestOutboxPublish(t *testing.T) {
	for _, version := range []string{"16", "18"} {
		t.Run(version, func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), stacktest.NewPostgres(t, devstack.PostgresOptions{Version: version}).DSN("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context()) //nolint:errcheck // everything has been said by then
			const table = `"Sales"."Out box"`
			for _, statement := range append([]string{`create schema "Sales"`, Schema(table)}, append(Functions(table), Functions(table)...)...) {
				if _, err := conn.Exec(t.Context(), statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			publish := func(args string) (id string, err error) {
				err = conn.QueryRow(t.Context(), `select "Sales"."Out box_publish"(`+args+`)`).Scan(&id)
				return id, err
			}
			last := ""
			for range 200 {
				id, err := publish(`'order', '42', 'OrderPlaced', '{"total": 9}'`)
				if err != nil {
					t.Fatal(err)
				}
				ms, err := strconv.ParseInt(strings.ReplaceAll(id[:13], "-", ""), 16, 64)
				if ago := time.Since(time.UnixMilli(ms)); err != nil || id[14] != '7' || strings.IndexByte("89ab", id[19]) < 0 || ago < -time.Minute || ago > 10*time.Minute {
					t.Fatalf("%s is no UUID of version 7, or not of now", id)
				}
				if id < last { // the clock of one machine; two calls are more than 250 ns apart
					t.Errorf("%s comes after %s", id, last)
				}
				last = id
			}
			const own = "018f1b2c-3d4e-7f00-8000-000000000001"
			if id, err := publish(`topic => 'order', key => '42', type => 'OrderGone', payload => null, id => '` + own + `'`); id != own || err != nil {
				t.Errorf("with an id of its own: %s, %v", id, err)
			}
			var got string
			if err := conn.QueryRow(t.Context(), `select concat_ws('|', aggregatetype, aggregateid, type, payload is null) from `+table+` where id = $1`, own).Scan(&got); got != "order|42|OrderGone|t" || err != nil {
				t.Errorf("%s, %v", got, err)
			}
			for args, says := range map[string]string{
				`'or der', '42', 'T', '{}'`:                                    `topic 'or der': Kafka takes`,
				`'', '42', 'T', '{}'`:                                          `topic '': Kafka takes`,
				`null, '42', 'T', '{}'`:                                        `topic NULL: Kafka takes`,
				`repeat('o', 237), '42', 'T', '{}'`:                            `Kafka takes 1 to 236`,
				`'order', '', 'T', '{}'`:                                       `key '': it takes 1 to 255`,
				`'order', repeat('ü', 256), 'T', '{}'`:                         `it takes 1 to 255`,
				`'order', '42', null, '{}'`:                                    `type NULL: it takes 1 to 255`,
				`'order', '42', 'T', to_jsonb(repeat('x', 1048588))`:           `Kafka takes a record of 1048588`,
				`'order', '42', 'T', '{}', 'x'`:                                `invalid input syntax for type uuid`,
				`'order', '42', 'T', '{}', '` + own + `'`:                      `duplicate key`,
				`'order', repeat('ü', 255), repeat('t', 255), '[]'`:            ``,
				`repeat('o', 236), '42', 'T', to_jsonb(repeat('x', 1e6::int))`: ``,
			} {
				_, err := publish(args)
				if (says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), says) {
					t.Errorf("%s: want %q, got %v", args, says, err)
				}
			}
		})
	}
}
