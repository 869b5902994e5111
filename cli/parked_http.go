package cli

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/tidemark/tidemark/admin"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/park"
)

// parkedDesk does over HTTP what the parked commands do. It opens the table when it is first asked, and keeps that one
// connection, so that requests do not open one each.
type parkedDesk struct {
	config *config.Config

	mu     sync.Mutex
	source string // the text of the header tidemark-source; "" until it is known
	store  *park.Store
}

// httpParked is how many events an answer lists. The others are counted.
const httpParked = 100

func (d *parkedDesk) open(ctx context.Context) (*park.Store, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.source == "" {
		if d.source, err = configuredSource(ctx, d.config); err != nil {
			return nil, "", err
		}
	}
	if d.store == nil {
		d.store, err = openParked(ctx, d.config, d.source)
	}
	return d.store, d.source, err
}

func (d *parkedDesk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store != nil {
		d.store.Close()
	}
}

func (d *parkedDesk) list(ctx context.Context) (any, error) {
	store, source, err := d.open(ctx)
	report := &parkedReport{Source: source, Events: []parkedEvent{}}
	if err == nil {
		err = report.read(ctx, store, httpParked)
	}
	if park.IsNoTable(err) {
		return &parkedReport{Source: source, Events: []parkedEvent{}}, nil
	}
	return report, err
}

func (d *parkedDesk) show(ctx context.Context, id string, payload bool) (any, error) {
	store, _, err := d.open(ctx)
	if err != nil {
		return nil, parkedError(err)
	}
	events, err := store.Show(ctx, id)
	return showParked(events, payload), parkedError(err)
}

func (d *parkedDesk) release(ctx context.Context, id string) error {
	store, _, err := d.open(ctx)
	if err == nil {
		err = store.Release(ctx, id)
	}
	return parkedError(err)
}

func (d *parkedDesk) discard(ctx context.Context, id string) error {
	store, _, err := d.open(ctx)
	if err == nil {
		err = awaitStoredPast(ctx, d.config, "", store, id)
	}
	if err == nil {
		err = store.Discard(ctx, id)
	}
	return parkedError(err)
}

// parkedError gives an error the HTTP status that stands for it.
func parkedError(err error) error {
	switch {
	case park.IsNotFound(err):
		return &admin.Error{Status: http.StatusNotFound, Err: err}
	case park.IsNoTable(err):
		return &admin.Error{Status: http.StatusNotFound, Err: fmt.Errorf("nothing is parked: %w", err)}
	case park.IsConflict(err):
		return &admin.Error{Status: http.StatusConflict, Err: err}
	default:
		return err
	}
}
