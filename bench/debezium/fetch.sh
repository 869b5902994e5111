#!/bin/sh
# Fetches Debezium and Kafka Connect once (Maven, Java 17), to where run.sh looks for them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
libs=${DEBEZIUM_LIBS:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemark/debezium-3.6.1}
mkdir -p "$libs"
mvn --batch-mode --quiet --file "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$libs"
echo "$libs: $(ls "$libs" | wc -l) jars"
