#!/bin/sh
# Debezium's Event Router in Kafka Connect, for tidemark bench --beside bench/debezium/run.sh: it drains the backlog that
# the BENCH_ variables name. Run fetch.sh once before.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
libs=${DEBEZIUM_LIBS:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemark/debezium-3.6.1}
[ -d "$libs" ] || { echo "Debezium is not in $libs: run $here/fetch.sh first" >&2; exit 1; }

cp "$here/worker.properties" "$here/connector.properties" "$BENCH_DIR/"
cat >>"$BENCH_DIR/worker.properties" <<END
bootstrap.servers=$BENCH_BROKERS
offset.storage.file.filename=$BENCH_DIR/offsets
END
cat >>"$BENCH_DIR/connector.properties" <<END
database.hostname=$BENCH_HOST
database.port=$BENCH_PORT
database.user=$BENCH_USER
database.password=$BENCH_PASSWORD
database.dbname=$BENCH_DATABASE
table.include.list=$BENCH_TABLES
slot.name=$BENCH_SLOT
publication.name=$BENCH_PUBLICATION
transforms.outbox.route.topic.replacement=$BENCH_TOPIC_PREFIX\${routedByValue}
END
# The heap is what Kafka's own connect-standalone.sh gives it; DEBEZIUM_HEAP= leaves it to Java.
# shellcheck disable=SC2086 # several options
exec java ${DEBEZIUM_HEAP--Xms256M -Xmx2G} -XX:+UseG1GC -cp "$libs/*" \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
  org.apache.kafka.connect.cli.ConnectStandalone "$BENCH_DIR/worker.properties" "$BENCH_DIR/connector.properties"
