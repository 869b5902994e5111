package park

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// failure is an error with what the caller can do about it.
type failure struct {
	kind failureKind
	err  error
	hint string // what a person does next; "" if the error has said it
}

type failureKind uint8

const (
	passes    failureKind = iota // trying again may succeed
	permanent                    // a person has to act
	notFound                     // nothing of that name is parked
	conflict                     // the state of an event forbids it
	noTable                      // there is no table of parked events
	newer                        // a newer version has made the table
)

func (f *failure) Error() string {
	if f.hint == "" {
		return f.err.Error()
	}
	return f.err.Error() + ": " + f.hint
}

func (f *failure) Unwrap() error { return f.err }

// Hint is what to do about it, the end of its text; it may be empty.
func (f *failure) Hint() string { return f.hint }

// Refused reports whether going on could hide parked events.
func (f *failure) Refused() bool { return f.kind == newer }

func is(err error, kind failureKind) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.kind == kind
}

// IsPermanent reports whether err is one that trying again will not mend: a person has to act, as its text says.
func IsPermanent(err error) bool { return is(err, permanent) || is(err, newer) }

// IsNewer reports whether err says that a newer version of tidemark has made the table, which this one could misread.
func IsNewer(err error) bool { return is(err, newer) }

// IsNotFound reports whether err says that no such event is parked.
func IsNotFound(err error) bool { return is(err, notFound) }

// IsConflict reports whether err says that what was asked for does not fit what is parked now: an earlier event of the
// key waits, an id stands for several events, an event has been handed over or is gone. Trying the same again will not
// mend it; looking again will.
func IsConflict(err error) bool { return is(err, conflict) }

// IsNoTable reports whether err says that there is no table of parked events, so that nothing is parked either.
func IsNoTable(err error) bool { return is(err, noTable) }

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// explain says what was being done, and what to do about errors of the server that only a person can mend.
// (https://www.postgresql.org/docs/current/errcodes-appendix.html)
func (s *Store) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if _, explained := errors.AsType[*failure](err); explained {
		return err
	}
	kind, hint := advice(sqlState(err), s.role)
	if kind == passes && hint == "" {
		return err
	}
	return &failure{kind, err, hint}
}

func advice(state, role string) (failureKind, string) {
	switch state {
	case "":
		return passes, ""
	case "28P01", "28000":
		return permanent, "check user and password in source.admin_dsn, and pg_hba.conf"
	case "3D000":
		return permanent, "check the database in source.admin_dsn"
	case "42501":
		return permanent, "let the owner of the database grant what is missing: " + grantSQL(role)
	case "55P03":
		return passes, "another session has locked " + tableName +
			"; if this goes on, find it (select pid, state, query from pg_stat_activity where pid in (select pid from pg_locks where granted and (locktype = 'advisory' or relation = '" +
			tableName + "'::regclass))) and end its transaction"
	case "25006":
		return passes, "that server takes no writes; source.admin_dsn must lead to the primary (with several hosts: target_session_attrs=primary)"
	case "42P01", "42703":
		return permanent, tableName + " is not there as tidemark made it; see that nobody drops or alters it"
	}
	switch state[:2] {
	case "22", "23", "54": // data that the table cannot take
		return permanent, ""
	}
	return passes, ""
}

func grantSQL(role string) string {
	return "grant usage on schema " + schemaName + " to " + quoteIdentifier(role) +
		"; grant select, insert, update, delete on " + tableName + " to " + quoteIdentifier(role)
}

func quoteIdentifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
