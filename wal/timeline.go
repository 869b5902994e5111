package wal

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
)

// History holds where each timeline was left from which the server's own has grown. What was written on a timeline beyond that
// point is lost to the server, and its LSNs are used again by what came after.
type History map[int32]pglogrepl.LSN

// History asks the server for that of its timeline.
func (c *Conn) History(ctx context.Context) (History, error) {
	if c.System.Timeline <= 1 {
		return History{}, nil // the first has none
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	file, err := pglogrepl.TimelineHistory(ctx, c.pg, c.System.Timeline)
	if err != nil {
		return nil, explain(fmt.Errorf("read the history of timeline %d: %w", c.System.Timeline, err))
	}
	h, err := parseHistory(file.Content)
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", c.System.Timeline, err)
	}
	return h, nil
}

// parseHistory reads lines of a timeline, the LSN at which it was left, and a remark.
// (https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES)
func parseHistory(text []byte) (History, error) {
	h := History{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("line %q: want a timeline and an LSN", lines.Text())
		}
		timeline, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		end, err := pglogrepl.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		h[int32(timeline)] = end
	}
	return h, lines.Err()
}
