package checkpoint_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/tidemark/tidemark/checkpoint"
)

func encode(tb testing.TB, c *checkpoint.Checkpoint) []byte {
	tb.Helper()
	b, err := checkpoint.Encode(c)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// What is stored is part of the outside contract, so it is held against a text and not against the code that wrote it.
func TestCheckpointIsOneReadableObject(t *testing.T) {
	t.Parallel()
	const want = `{
  "version": 1,
  "system_identifier": "7325476235476523874",
  "timeline": 3,
  "database": "app",
  "slot": "tidemark",
  "lsn": "0/16B3748",
  "position": "00000000016B3700-00000002",
  "offsets": {
    "a": {
      "0": 17,
      "1": 4
    },
    "b": {
      "2": 0
    }
  },
  "topic_ids": {
    "a": "AAAAAAAAAAAAAAAAAAAAAQ=="
  },
  "producers": [
    4711,
    4712
  ],
  "publication": {
    "row": "16394:742",
    "tables": {
      "public.outbox": "16395:742 16399:750"
    },
    "lsn": "0/16B3700",
    "seen_at": "2026-11-22T09:59:30Z"
  },
  "writer": "somebody",
  "written_at": "2026-11-22T10:00:00.123456789Z"
}
`
	if got := string(encode(t, example(0))); got != want {
		t.Errorf("stored is\n%s\nwant\n%s", got, want)
	}
	c, err := checkpoint.Decode([]byte(want))
	if err != nil || !reflect.DeepEqual(c, example(0)) {
		t.Errorf("Decode() = %+v, %v\nwant %+v", c, err, example(0))
	}
}

func TestDecodeRefusesEveryTruncation(t *testing.T) {
	t.Parallel()
	whole := bytes.TrimSuffix(encode(t, example(0)), []byte("\n")) // without its last byte it is still whole
	for n := range whole {
		if c, err := checkpoint.Decode(whole[:n]); !checkpoint.IsCorrupt(err) || c != nil {
			t.Errorf("the first %d of %d bytes: %+v, %v, want an error that is corrupt", n, len(whole), c, err)
		}
	}
}

// Losing a block from the middle or finding zeros in its place is what file systems do after a power cut.
func TestDecodeRefusesAHole(t *testing.T) {
	t.Parallel()
	whole := encode(t, example(0))
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(0, len(whole)-2).Draw(t, "from")
		to := rapid.IntRange(from+1, len(whole)-1).Draw(t, "to") // the newline at the end does not count
		zeros := bytes.Clone(whole)
		clear(zeros[from:to])
		if _, err := checkpoint.Decode(zeros); !checkpoint.IsCorrupt(err) {
			t.Fatalf("zeros from %d to %d: %v", from, to, err)
		}
	})
}

func TestDecodeRefusesWhatIsNotAWholeCheckpoint(t *testing.T) {
	t.Parallel()
	whole := string(encode(t, example(0)))
	replace := func(old, with string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("%q is not in the example", old)
		}
		return strings.Replace(whole, old, with, 1)
	}
	for name, c := range map[string]struct{ text, says string }{
		"empty":                 {"", "empty"},
		"blank":                 {" \n", "empty"},
		"zeros":                 {strings.Repeat("\x00", 512), "invalid character"},
		"null":                  {"null", "version"},
		"another JSON value":    {`"0/16B3748"`, "cannot unmarshal"},
		"an empty object":       {"{}", "version"},
		"a second object":       {whole + whole, "follows"},
		"trailing text":         {whole + "x", "follows"},
		"a trailing zero byte":  {whole + "\x00", "follows"},
		"a trailing bracket":    {whole + "]", "follows"},
		"a trailing brace":      {whole + "}", "follows"},
		"an unknown field":      {replace(`"lsn"`, `"lns"`), "lns"},
		"a newer version":       {replace(`"version": 1`, `"version": 2`), "a newer version of tidemark has written it: format 2, and this version reads up to 1"},
		"a newer with its own":  {replace(`"version": 1`, `"version": 2, "shards": 3`), "a newer version of tidemark has written it"},
		"a field more":          {replace(`"version": 1`, `"version": 1, "shards": 3`), `"shards": it is mistyped, or a newer version`},
		"version 0":             {replace(`"version": 1`, `"version": 0`), "version"},
		"a negative version":    {replace(`"version": 1`, `"version": -1`), "version"},
		"version as text":       {replace(`"version": 1`, `"version": "1"`), "version"},
		"no system":             {replace(`"7325476235476523874"`, `""`), "system_identifier"},
		"no database":           {replace(`"app"`, `""`), "database"},
		"no slot":               {replace(`"tidemark"`, `""`), "slot"},
		"an unknown state":      {replace(`"lsn"`, `"state": "half", "lsn"`), "half"},
		"lsn zero":              {replace(`"0/16B3748"`, `"0/0"`), "lsn"},
		"lsn null":              {replace(`"0/16B3748"`, `null`), "lsn"},
		"lsn as a number":       {replace(`"0/16B3748"`, `23803720`), "lsn"},
		"lsn with a slip":       {replace(`"0/16B3748"`, `"0/16B3748 "`), "0/16B3748"},
		"lsn without its half":  {replace(`"0/16B3748"`, `"16B3748"`), "16B3748"},
		"a negative offset":     {replace(`"0": 17`, `"0": -17`), "-17"},
		"a negative partition":  {replace(`"0": 17`, `"-1": 17`), "partition -1"},
		"an offset too large":   {replace(`"0": 17`, `"0": 9223372036854775808`), "9223372036854775808"},
		"a partition too large": {replace(`"0": 17`, `"2147483648": 17`), "2147483648"},
		"a topic without name":  {replace(`"a": {`, `"": {`), `topic ""`},
		"a time that is none":   {replace(`"2026-11-22T10:00:00.123456789Z"`, `"yesterday"`), "yesterday"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := checkpoint.Decode([]byte(c.text))
			if !checkpoint.IsCorrupt(err) || got != nil {
				t.Fatalf("Decode() = %+v, %v, want an error that is corrupt", got, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error %q does not say %q", err, c.says)
			}
		})
	}
}

// Every field that SPEC.md names has to be there: a file without it was edited or written by something else.
func TestDecodeRefusesAMissingField(t *testing.T) {
	t.Parallel()
	whole := encode(t, example(0))
	for _, field := range []string{"version", "system_identifier", "timeline", "database", "slot", "lsn", "position", "offsets", "written_at"} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			without := regexp.MustCompile(`(?s)\n  "`+field+`": ("[^"]*"|\d+|\{.*?\n  \})(,|\n)`).ReplaceAll(whole, nil)
			without = bytes.Replace(without, []byte(",}"), []byte("}"), 1) // it was the last
			if len(without) == len(whole) {
				t.Fatal("the field is not in the example")
			}
			c, err := checkpoint.Decode(without)
			if !checkpoint.IsCorrupt(err) {
				t.Fatalf("Decode() = %+v, %v of\n%s\nwant an error that is corrupt", c, err, without)
			}
			if !strings.Contains(err.Error(), field) {
				t.Errorf("the error %q does not name %s", err, field)
			}
		})
	}
}

func TestDecodeTakesTheFirstPhaseWithoutAnLSN(t *testing.T) {
	t.Parallel()
	c := example(0)
	c.State, c.LSN, c.Position = checkpoint.ExistingRows, 0, ""
	got, err := checkpoint.Decode(encode(t, c))
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("Decode() = %+v, %v", got, err)
	}
}

func TestParseLSNIsStrict(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]pglogrepl.LSN{
		"0/16B3748": 0x16B3748, "0/16b3748": 0x16B3748, "16/B374D848": 0x16_B374D848, "1/1": 1<<32 | 1,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1, "00000000/00000001": 1,
	} {
		if got, err := checkpoint.ParseLSN(text); err != nil || got != want {
			t.Errorf("ParseLSN(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "/", "0", "0/", "/0", "0/0/0", "0/1 ", " 0/1", "0 /1", "0/1x", "0/-1", "-0/1", "+0/1", "0x0/1", "0/1_0", "0/g",
		"100000000/0", "0/100000000", "000000000/1", "0/000000001", "0\\1",
	} {
		if got, err := checkpoint.ParseLSN(text); err == nil {
			t.Errorf("ParseLSN(%q) = %s, want an error", text, got)
		} else if !strings.Contains(err.Error(), "0/16B3748") {
			t.Errorf("the error %q shows no example", err)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	for _, seed := range []string{"0/16B3748", "FFFFFFFF/FFFFFFFF", "0/0", "16/b374d848", "0/1 ", "1/2/3", "00000000/0"} {
		f.Add(seed)
	}
	shape := regexp.MustCompile(`^[0-9a-fA-F]{1,8}/[0-9a-fA-F]{1,8}$`)
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := checkpoint.ParseLSN(text)
		theirs, errTheirs := pglogrepl.ParseLSN(text)
		if (err == nil) != shape.MatchString(text) {
			t.Fatalf("ParseLSN(%q) = %s, %v", text, ours, err)
		}
		if err != nil {
			return
		}
		if errTheirs != nil || ours != theirs {
			t.Fatalf("ParseLSN(%q) = %s, pglogrepl says %s, %v", text, ours, theirs, errTheirs)
		}
		again, err := checkpoint.ParseLSN(ours.String())
		if err != nil || again != ours {
			t.Fatalf("%q is %s, which is read as %s, %v", text, ours, again, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	whole := encode(f, example(0))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"version":1,"system_identifier":"1","timeline":1,"database":"d","slot":"s","state":"existing_rows","lsn":"0/0","position":"","offsets":null,"written_at":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"version":1,"system_identifier":"1","timeline":1,"database":"d","slot":"s","lsn":"0/1","position":"","offsets":{"":null},"written_at":"2026-11-22T10:00:00+01:00"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := checkpoint.Decode(text)
		if err != nil {
			if c != nil || !checkpoint.IsCorrupt(err) {
				t.Fatalf("Decode() = %+v, %v, want nil and an error that is corrupt", c, err)
			}
			return
		}
		again, err := checkpoint.Decode(encode(t, c))
		if err != nil {
			t.Fatalf("what was read, %+v, is written in a way that cannot be read: %v", c, err)
		}
		if !again.WrittenAt.Equal(c.WrittenAt) {
			t.Fatalf("written at %s, read again %s", c.WrittenAt, again.WrittenAt)
		}
		again.WrittenAt = c.WrittenAt // its zone may be another value that means the same
		if len(c.TopicIDs) == 0 {     // what is empty is not written
			c.TopicIDs = nil
		}
		if len(c.Producers) == 0 {
			c.Producers = nil
		}
		if !reflect.DeepEqual(again, c) {
			t.Fatalf("read %+v, written and read again %+v", c, again)
		}
	})
}

// Forks are part of what is stored, too; a fork that is not noted yet must not come back as one at which nothing was.
func TestForksAreStored(t *testing.T) {
	t.Parallel()
	c := example(0)
	c.State = checkpoint.Streaming
	c.Forks = []checkpoint.Fork{{LSN: 0x16B3700, Offsets: checkpoint.Offsets{"a": {0: 3}}}, {LSN: 0x16B3800}, {LSN: 0x16B3900, Offsets: checkpoint.Offsets{}}}
	b := encode(t, c)
	if !bytes.Contains(b, []byte(`"lsn": "0/16B3800",
      "offsets": null`)) {
		t.Errorf("stored is\n%s", b)
	}
	if got, err := checkpoint.Decode(b); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("Decode() = %+v, %v\nwant %+v", got, err, c)
	}
	wrong := bytes.Replace(b, []byte(`"0": 3`), []byte(`"0": -3`), 1)
	if _, err := checkpoint.Decode(wrong); !checkpoint.IsCorrupt(err) {
		t.Errorf("an offset below zero in a fork: %v", err)
	}
	c.LSN = 0x16B3900
	c.Settle()
	if want := []checkpoint.Fork{{LSN: 0x16B3800}}; !reflect.DeepEqual(c.Forks, want) {
		t.Errorf("settled: %+v, want %+v: one that is not noted stays", c.Forks, want)
	}
}

// TestFormatsOfBefore reads what earlier builds have written, byte for byte.
func TestFormatsOfBefore(t *testing.T) {
	t.Parallel()
	for name, want := range before(t) {
		got, err := checkpoint.Decode(want.text)
		if err != nil || !reflect.DeepEqual(got, want.means) {
			t.Errorf("%s: %+v, %v\nwant %+v", name, got, err, want.means)
		}
	}
}

type formatOfBefore struct {
	text  []byte
	means *checkpoint.Checkpoint
}

// before are the formats in which a field was added that each start needs: the first one, and the one with which a
// successor looks for what a killed predecessor has published.
func before(t *testing.T) map[string]formatOfBefore {
	t.Helper()
	common := checkpoint.Checkpoint{
		Version: 1, SystemIdentifier: "7711127065204882249", Timeline: 1, Database: "shop", Slot: "tidemark", Offsets: checkpoint.Offsets{},
	}
	first, topics := common, common
	first.LSN, first.Position, first.Writer = 0x1FBD100, "0000000001fbd0d0-00000000", "NY44QBH3FSWDHMLINIYNRV47IP"
	first.WrittenAt = time.Date(2026, 11, 23, 14, 3, 14, 464676023, time.UTC)
	topics.LSN, topics.Position, topics.Writer = 0x240C078, "00000000023fac10-00000000", "V3BXEMPI3OLRFVTB752AR5PNFJ"
	topics.WrittenAt = time.Date(2026, 11, 23, 14, 3, 22, 22247970, time.UTC)
	topics.Offsets = checkpoint.Offsets{"outbox.event.order": {0: 0, 1: 1}}
	topics.TopicIDs, topics.Producers = map[string]string{"outbox.event.order": "iPydLRkjR7erJRAn8IWMBw=="}, []int64{1}

	formats := map[string]formatOfBefore{"first.json": {means: &first}, "with_topics.json": {means: &topics}}
	for name, f := range formats {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		f.text = text
		formats[name] = f
	}
	return formats
}
