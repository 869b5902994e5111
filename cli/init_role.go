package cli

import (
	"context"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/wal"
)

// roleRights is all that a relay with this configuration needs of the role in source.dsn. What is written goes through
// source.admin_dsn, if that is another.
func roleRights(c *config.Config) []wal.Grant {
	writes := c.Source.AdminDSN == c.Source.DSN
	var grants []wal.Grant
	for _, t := range c.Outbox {
		g := wal.Grant{Table: t.Table, Rights: []string{"select"}}
		if writes && c.Prune.Interval > 0 {
			g.Rights = append(g.Rights, "delete")
		}
		grants = append(grants, g)
	}
	if writes && c.Checkpoint.Store == "postgres" {
		grants = append(grants, wal.Grant{Table: "public.tidemark_checkpoint", Rights: []string{"select", "insert", "update"}})
	}
	if writes && c.Delivery.OnPoison == "park" {
		grants = append(grants, wal.Grant{Table: "public.tidemark_parked", Rights: []string{"select", "insert", "update", "delete"}})
	}
	return grants
}

// missingRole returns the statements that make the role, and says what they leave to be done.
func (a *app) missingRole(ctx context.Context, c *config.Config, setup *wal.Setup, role string) ([]string, error) {
	statements, created, err := setup.MissingRole(ctx, role, roleRights(c))
	if err != nil {
		return nil, err
	}
	switch {
	case created:
		a.printf("-- role %s cannot log in yet: give it a password (psql: \\password %s) or a certificate, and name it in source.dsn\n", role, role)
	case len(statements) == 0:
		a.printf("-- role %s may do what it needs to\n", role)
	}
	return statements, nil
}
