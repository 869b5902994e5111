// Command tidemark publishes the rows of a Postgres outbox table to Kafka.
package main

func main() {}
