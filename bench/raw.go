package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// drainRaw reads the backlog through the replication protocol, looks at each message's kind and throws it away: what no
// reader of the protocol can be quicker than, unless it reads otherwise.
func (st *stage) drainRaw(ctx context.Context) (Drain, error) {
	slot, err := st.slot(ctx)
	if err != nil {
		return Drain{}, err
	}
	d, err := st.readRaw(ctx, slot)
	if err != nil {
		return Drain{}, fmt.Errorf("read the log: %w", err)
	}
	return d, st.dropSlot(ctx, slot)
}

func (st *stage) readRaw(ctx context.Context, slot string) (d Drain, err error) {
	config, err := pgconn.ParseConfig(st.source)
	if err != nil {
		return Drain{}, err
	}
	config.RuntimeParams["replication"] = "database"
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, 128<<10), w) // as the relay has it
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return Drain{}, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	defer context.AfterFunc(ctx, func() { _ = conn.Conn().SetDeadline(time.Unix(1, 0)) })()

	began, cpu := time.Now(), ownCPU()
	front := conn.Frontend()
	front.SendQuery(&pgproto3.Query{String: fmt.Sprintf(
		`START_REPLICATION SLOT "%s" LOGICAL 0/0 (proto_version '1', publication_names '%s')`, slot, publication)})
	if err := front.Flush(); err != nil {
		return Drain{}, err
	}
	rows := 0
	for {
		msg, err := front.Receive()
		if err != nil {
			return Drain{}, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			return Drain{}, pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.CopyData:
			const header, keepalive = 1 + 8 + 8 + 8, 1 + 8 + 8 + 1 // see protocol-replication in Postgres's documentation
			switch {
			case len(msg.Data) > header && msg.Data[0] == 'w':
				d.Bytes += int64(len(msg.Data))
				if kind := msg.Data[header]; kind == 'I' {
					rows++
				} else if kind == 'C' && rows == st.load.Rows {
					d.Seconds = time.Since(began).Seconds()
					d.CPUSeconds = (ownCPU() - cpu).Seconds()
					return d, nil
				}
			case len(msg.Data) == keepalive && msg.Data[0] == 'k' && msg.Data[keepalive-1] == 1:
				if err := reply(front); err != nil {
					return Drain{}, err
				}
			}
		default:
			return Drain{}, fmt.Errorf("unexpected message %T", msg)
		}
	}
}

// reply tells the server that we are alive, and confirms nothing.
func reply(front *pgproto3.Frontend) error {
	status := make([]byte, 1+8+8+8+8+1)
	status[0] = 'r'
	for at := 1; at < 25; at += 8 {
		binary.BigEndian.PutUint64(status[at:], 1) // an LSN before every log's first, because 0 would stand for "unknown"
	}
	front.Send(&pgproto3.CopyData{Data: status})
	return front.Flush()
}
