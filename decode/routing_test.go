package decode

import (
	"slices"
	"testing"
)

func TestRoutingNamesWhatIDTopicKeyAndPartitionAreMadeOf(t *testing.T) {
	tests := []struct {
		table Table
		place []string
		all   []string
	}{
		{Table{Columns: Columns{ID: "id", Key: "k", Topic: "t", Payload: "p", Type: "type"}}, []string{"t", "k"}, []string{"id", "t", "k"}},
		{Table{Columns: Columns{ID: "id", Key: "k", Topic: "t", Payload: "p", Partition: "part"}, Topic: "out.{a}.{b}", Key: "{b}-{c}"}, []string{"a", "b", "c"}, []string{"id", "a", "b", "c", "part"}},
		{Table{Columns: Columns{ID: "id", Payload: "p"}, Topic: "fixed"}, nil, []string{"id"}},
	}
	for _, test := range tests {
		test.table.Name = "public.outbox"
		r, err := test.table.Routing()
		if err != nil || r.ID != "id" || !slices.Equal(r.Place, test.place) || !slices.Equal(r.All, test.all) {
			t.Errorf("%+v: %+v, %v", test.table, r, err)
		}
	}
	if _, err := (Table{Name: "public.outbox", Topic: "{"}).Routing(); err == nil {
		t.Error("a table that cannot be read has a routing")
	}
}
