package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/outbox"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func (a *app) initCommand() *cobra.Command {
	var dryRun, functions, recreate, republish bool
	var role string
	var from fromDebezium
	command := &cobra.Command{
		Use:   "init",
		Short: "Create what is missing in Postgres: outbox table, publication, slot",
		Long: `init creates the outbox tables, the publication and the slot, where they are missing, and changes nothing that is
there; with checkpoint.store: postgres also the table of checkpoints, with delivery.on_poison: park that of parked events.
Where a table already has rows and source.existing_rows is publish, it leaves the slot to the first run, which publishes
those rows from the slot's own snapshot, so that none is left out or published twice.

--functions creates, for applications in any language, the SQL function TABLE_publish(topic, key, type, payload), which
checks an event, inserts it and returns its id; it replaces the one that is there. Go has package outbox for that.

--role makes a role for source.dsn that may replicate, read the outbox tables, and write to tidemark's own tables where the
configuration has any, and no more; or grants what one lacks. It takes an administrator in source.admin_dsn (on Amazon RDS,
grant rds_replication yourself). A password is yours to set.

--recreate-slot is the way out after a lost slot: it drops the slot, creates it anew and stores its position. Events
committed between the old checkpoint and the new slot may be missing in Kafka; they are still in the table, and
tidemark verify --repair publishes exactly those, beside the running relay.

With --republish none is missing afterwards: the next run creates the slot and publishes every row that is in the table
then, from the slot's own snapshot, whatever source.existing_rows says. Rows that are in Kafka already arrive a second
time, with the same id and a later position.

--from-debezium prints the config.yaml for what a Debezium connector does, and creates nothing: FILE is what GET /connectors/NAME
of Kafka Connect answers, its config alone, or properties. What could not be carried over, and why, is said on stderr and at the end
of what it prints. Passwords are left out. docs/debezium.md says how to switch.`,
		Example: "  tidemark init --dry-run\n  tidemark init\n  TIDEMARK_SOURCE_ADMIN_DSN=postgres://postgres@localhost/shop tidemark init --role relay --dry-run\n  tidemark init --functions     # then: select outbox_publish('order', '42', 'OrderPlaced', '{\"total\": 9}')\n  tidemark init --recreate-slot --republish   # after a lost slot: no row is left out, some arrive twice\n  tidemark init --from-debezium connector.json --output config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from.output != "" && from.file == "" {
				return &usageError{errors.New("--output goes with --from-debezium")}
			}
			if from.file != "" && (dryRun || functions || recreate || republish || role != "") {
				return &usageError{errors.New("--from-debezium prints a configuration and does nothing else: it goes with --output alone")}
			}
			if from.file != "" {
				return from.convert(a)
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			if republish && !recreate {
				return &usageError{errors.New("--republish goes with --recreate-slot")}
			}
			if functions && recreate {
				return &usageError{errors.New("--functions does not go with --recreate-slot: run init twice")}
			}
			if role != "" && recreate {
				return &usageError{errors.New("--role does not go with --recreate-slot: run init twice")}
			}
			if recreate {
				return a.recreateSlot(cmd.Context(), c, dryRun, republish)
			}
			return a.initialise(cmd.Context(), c, dryRun, functions, role)
		},
	}
	from.flags(command)
	command.Flags().BoolVar(&dryRun, "dry-run", false, "print the SQL and change nothing")
	command.Flags().BoolVar(&functions, "functions", false, "also create the SQL functions that write an event")
	command.Flags().StringVar(&role, "role", "", "also make a role of this name that may do what a relay needs, and no more")
	command.Flags().BoolVar(&recreate, "recreate-slot", false, "drop the slot, create it anew and store its position (after a lost slot)")
	command.Flags().BoolVar(&republish, "republish", false, "with --recreate-slot: have the next run publish every row of the table, also those that are in Kafka")
	return command
}

func (a *app) initialise(ctx context.Context, c *config.Config, dryRun, functions bool, role string) error {
	source := sourceOptions(c)
	setup, err := wal.OpenSetup(ctx, source)
	if err != nil {
		return err
	}
	defer setup.Close()
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	statements, err := a.missing(ctx, c, setup, store, functions, role)
	if err != nil {
		return err
	}
	for _, statement := range statements {
		a.printf("%s;\n", statement)
		if dryRun {
			continue
		}
		if err := setup.Exec(ctx, statement); err != nil {
			return err
		}
	}
	conn, err := wal.Connect(ctx, source)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.CatchUp(ctx, setup); err != nil {
		return err
	}
	slot, err := conn.Slot(ctx)
	if err != nil {
		return err
	}
	if slot != nil {
		a.printf("-- slot %s is there\n", slot.Name)
		return nil
	}
	if dryRun {
		a.printf("%s;\n", wal.CreateSlotSQL(source))
		return nil
	}
	return a.initSlot(ctx, c, conn, store)
}

// missing returns the statements that create what is not there, but for the slot, in the order in which they have to be run.
func (a *app) missing(ctx context.Context, c *config.Config, setup *wal.Setup, store store, functions bool, role string) ([]string, error) {
	var cannot error
	statements, err := setup.Missing(ctx, func(table, quoted string) string {
		for _, t := range c.Outbox {
			switch {
			case t.Table != table:
			case t.Preset == "eventuate":
				cannot = fmt.Errorf("create table %s: it is Eventuate Tram's, and the application's migrations create it (docs/eventuate.md has Tram's statement); tidemark reads it as it is", t.Table)
			case t.Preset != "debezium":
				cannot = fmt.Errorf("create table %s: only a table of preset debezium can be created here; create it yourself", t.Table)
			}
		}
		return outbox.Schema(quoted)
	})
	if err = errors.Join(err, cannot); err != nil {
		return nil, err
	}
	if table, ok := store.(*checkpoint.Postgres); ok {
		sql, err := table.MissingTable(ctx)
		if err != nil {
			return nil, err
		}
		if sql != "" {
			statements = append(statements, sql)
		}
	}
	if c.Delivery.OnPoison == "park" {
		sql, err := missingParkTable(ctx, c)
		if err != nil {
			return nil, err
		}
		if sql != "" {
			statements = append(statements, sql)
		}
	}
	if functions {
		sql, err := outboxFunctions(c)
		if err != nil {
			return nil, err
		}
		statements = append(statements, sql...)
	}
	if role != "" {
		sql, err := a.missingRole(ctx, c, setup, role)
		if err != nil {
			return nil, err
		}
		statements = append(statements, sql...)
	}
	return statements, nil
}

// outboxFunctions returns the statements that create the SQL functions of every outbox table.
func outboxFunctions(c *config.Config) ([]string, error) {
	var statements []string
	for _, t := range c.Outbox {
		columns := []string{t.Columns.ID, t.Columns.Topic, t.Columns.Key, t.Columns.Type, t.Columns.Payload}
		if !slices.Equal(columns, []string{"id", "aggregatetype", "aggregateid", "type", "payload"}) {
			return nil, fmt.Errorf("create functions for table %s: they insert into the columns of preset debezium, and it is read by others: run tidemark init without --functions, and write a function of your own", t.Table)
		}
		statements = append(statements, outbox.Functions(wal.QuoteTable(t.Table))...)
	}
	return statements, nil
}

// missingParkTable returns the statements that create the table of parked events, "" if it is there.
func missingParkTable(ctx context.Context, c *config.Config) (sql string, err error) {
	table, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), "")
	if park.IsNoTable(err) {
		return park.TableSQL(), nil
	}
	if err == nil {
		table.Close()
	}
	return "", err
}

// initSlot creates the slot, unless the first run has to: the rows that are there already can only be told from the
// later ones by the snapshot that comes with the slot, and that lives no longer than the connection.
func (a *app) initSlot(ctx context.Context, c *config.Config, conn *wal.Conn, store store) error {
	stored, err := store.Load(ctx)
	if err != nil {
		return err
	}
	if stored != nil {
		return fmt.Errorf("slot %s does not exist, but a checkpoint at %s is stored in %s: if the slot was lost, tidemark init --recreate-slot; if this is a new source, it takes a slot name or a place of its own for its checkpoint",
			c.Source.Slot, stored.LSN, store)
	}
	failover, err := conn.System.Failover(c.Source.Failover)
	if err != nil {
		return err
	}
	start, snapshotName, err := conn.CreateSlot(ctx, failover)
	if err != nil {
		return err
	}
	left := false
	if c.Source.ExistingRows == "publish" {
		if left, err = hasRows(ctx, conn, snapshotName, sourceOptions(c).Tables); err != nil {
			return errors.Join(err, conn.DropSlot(ctx))
		}
	}
	if !left {
		a.printf("-- slot %s created at %s\n", c.Source.Slot, start)
		return nil
	}
	if err := conn.DropSlot(ctx); err != nil {
		return err
	}
	a.printf("-- the outbox already has rows: the first `tidemark run` creates slot %s and publishes them\n", c.Source.Slot)
	return nil
}

func hasRows(ctx context.Context, conn *wal.Conn, snapshot string, tables []string) (bool, error) {
	s, err := conn.OpenSnapshot(ctx, snapshot)
	if err != nil {
		return false, err
	}
	defer s.Close()
	return s.HasRows(ctx, tables)
}

// recreateSlot makes a new slot and stores its position, and says what may be missing; or it leaves both to the next run,
// which is to publish every row.
func (a *app) recreateSlot(ctx context.Context, c *config.Config, dryRun, republish bool) error {
	source := sourceOptions(c)
	conn, slot, err := connectIdle(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	failover, err := conn.System.Failover(c.Source.Failover)
	if err != nil {
		return err
	}
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := store.Load(ctx); err != nil && !checkpoint.IsCorrupt(err) {
		return err // before the slot is gone
	}
	if dryRun {
		if slot != nil {
			a.printf("select pg_drop_replication_slot('%s');\n", slot.Name)
		}
		a.printf("%s;\n", wal.CreateSlotSQL(source))
		return nil
	}
	if slot != nil {
		if err := conn.DropSlot(ctx); err != nil {
			return err
		}
	}
	next := relay.NewCheckpoint(conn.System, source.Slot)
	next.Forks = []checkpoint.Fork{{}} // nothing of what is in Kafka came from this slot
	if len(c.Messages) > 0 {
		next.MessagesFrom = 1
		a.printf("Logical messages that were committed since the old checkpoint and before the new slot are lost: they are in no table.\n")
	}
	if republish {
		next.State = checkpoint.Republish
		return a.replaceCheckpoint(ctx, store, next)
	}
	at := time.Now()
	publication, errPublication := goodPublication(ctx, conn) // before the slot: what changes in between is noticed
	start, _, err := conn.CreateSlot(ctx, failover)
	if err != nil {
		return err
	}
	next.LSN = checkpoint.LSN(start)
	if errPublication == nil { // else the first start says what is wrong, and takes it when it is mended
		next.Publication = relay.NewPublication(*publication, at, next.LSN)
	}
	a.printf("Slot %s is created at %s.\n", source.Slot, start)
	return a.replaceCheckpoint(ctx, store, next)
}
