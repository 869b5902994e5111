package park

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	schemaName = "public"
	tableName  = schemaName + ".tidemark_parked"
	// tableMark is the table's comment. A version that writes another format writes another mark, with a larger number,
	// so that this one refuses the table instead of misreading it. testdata has the table as the first version made it.
	tableMark   = tableFormat + "1"
	tableFormat = "tidemark: parked events, format "
)

// blocking is what an event is that holds up those behind it. The planner takes an index for it only where the text is
// the same.
const blocking = "state = 'waiting' and not behind"

// TableSQL returns the statements that create the table, without a semicolon behind the last. They change nothing where
// it is there already.
func TableSQL() string {
	return `create table if not exists ` + tableName + ` (
	source       text not null,              -- whose event: the text of the header tidemark-source
	position     text collate "C" not null,  -- sorts as the log does
	lane         bytea not null,             -- a hash of topic and key: what an order holds for
	committed_at timestamptz not null,
	table_name   text not null,
	id           text not null,
	topic        text not null,
	key          bytea,
	value        bytea,
	headers      jsonb not null,             -- in their order, values in base64
	partition    integer not null,           -- -1: by the key
	record_time  timestamptz not null,
	bytes        bigint not null,            -- what the event takes in memory
	reason       text not null,
	behind       boolean not null,           -- nothing is wrong with it: it waits behind an earlier one of its key
	state        text not null default 'waiting' check (state in ('waiting', 'released', 'publishing')),
	floor        jsonb,                      -- while publishing: partition to its end before that
	parked_at    timestamptz not null default clock_timestamp(),
	primary key (source, position)
);
create index if not exists tidemark_parked_lane on ` + tableName + ` (source, lane, position);
create index if not exists tidemark_parked_blocking on ` + tableName + ` (source, lane, position) where ` + blocking + `;
create index if not exists tidemark_parked_going on ` + tableName + ` (source, position) where state <> 'waiting';
create index if not exists tidemark_parked_id on ` + tableName + ` using hash (id);
comment on table ` + tableName + ` is '` + tableMark + `'`
}

// checkTable makes sure that the table is there, ours and usable. It is created where it never was; one that was seen
// and is gone has taken parked events with it, and is not replaced by an empty one without a word.
func (s *Store) checkTable(ctx context.Context, conn *pgx.Conn) error {
	there, err := s.lookAtTable(ctx, conn)
	if err != nil || there {
		s.seen = s.seen || there
		return err
	}
	switch {
	case s.seen:
		return &failure{
			permanent, fmt.Errorf("%s is gone, and the events with it that were parked there", tableName),
			"restore it, or start tidemark again to begin with an empty one",
		}
	case !s.create:
		return &failure{noTable, fmt.Errorf("%s does not exist, so nothing is parked", tableName), ""}
	}
	if _, err := conn.Exec(ctx, TableSQL()); err != nil {
		// Somebody else may have been quicker: two who create the same table at once do not both get it.
		if there, again := s.lookAtTable(ctx, conn); again == nil && there {
			s.seen = true
			return nil
		}
		err = fmt.Errorf("create %s: %w", tableName, err)
		switch sqlState(err) {
		case "42501", "3F000": // no right, no schema
			return &failure{permanent, err, "let the owner of the database run what `tidemark init --dry-run` prints, then " + grantSQL(s.role)}
		}
		return err
	}
	s.seen = true
	return nil
}

func (s *Store) lookAtTable(ctx context.Context, conn *pgx.Conn) (there bool, err error) {
	const rights = "select insert update delete"
	var mark, missing string
	err = conn.QueryRow(ctx, `select t is not null, coalesce(obj_description(t, 'pg_class'), ''),
			coalesce((select string_agg(r, ', ') from regexp_split_to_table($2, ' ') r where not has_table_privilege(t, r)), '')
		from (select to_regclass($1)::oid t) x`, tableName, rights).Scan(&there, &mark, &missing)
	switch {
	case err != nil:
		return false, fmt.Errorf("look up %s: %w", tableName, err)
	case !there:
		return false, nil
	case mark != tableMark && strings.HasPrefix(mark, tableFormat): // the first format was 1
		return false, &failure{
			newer, fmt.Errorf("%s has format %s, and this version reads format %s: a newer version of tidemark has made it",
				tableName, mark[len(tableFormat):], tableMark[len(tableFormat):]),
			"run that version again; to go back to this one, have it release or discard every parked event (tidemark parked list), then drop the table",
		}
	case mark != tableMark:
		return false, &failure{
			permanent, fmt.Errorf("the comment on %s is %q, not %q", tableName, mark, tableMark),
			"see whose table it is; if it is tidemark's, and only the comment was lost: comment on table " + tableName + " is '" + tableMark + "'",
		}
	case missing != "":
		return false, &failure{permanent, fmt.Errorf("role %s may not %s in %s", s.role, strings.ReplaceAll(missing, ", ", " or "), tableName), grantSQL(s.role)}
	}
	return true, nil
}
