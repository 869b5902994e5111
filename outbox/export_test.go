package outbox

// NewDatabase is for the examples, which see the package from outside.
var NewDatabase = newDatabase //nolint:gochecknoglobals // a function by another name
