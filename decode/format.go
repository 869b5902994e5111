package decode

// Format says what form a row's record has. Each has a file of its own and a case in builder.event.
type Format uint8

// The formats. All have the headers HeaderPosition and HeaderSource, and, before any header that the row brings along, one
// with the row's id: the dedupe of a resume, verify and receipt know a record by them.
const (
	Plain                 Format = iota // the payload as it is; the id in HeaderID
	CloudEvents                         // a CloudEvent in binary mode: the payload as it is; the id in HeaderCloudEventID
	CloudEventsStructured               // a CloudEvent in structured mode: the value is a JSON object with attributes and payload
	Eventuate                           // Eventuate Tram's JSON of payload and headers, of a table in Tram's shape; the id in HeaderID
)

// isCloudEvent reports whether the record is a CloudEvent.
func (f Format) isCloudEvent() bool { return f == CloudEvents || f == CloudEventsStructured }
