import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.debezium.connector.postgresql.PostgresConnector;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.metrics.PluginMetrics;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.source.SourceTask;
import org.apache.kafka.connect.source.SourceTaskContext;
import org.apache.kafka.connect.storage.Converter;
import org.apache.kafka.connect.storage.HeaderConverter;
import org.apache.kafka.connect.storage.OffsetStorageReader;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * Does what a worker of Kafka Connect does between a source connector and the producer, with Debezium's own connector,
 * Event Router and the converters that are asked for, and prints each record that it would produce as a line of JSON.
 *
 * With "connect" it is Kafka Connect's standalone worker, with the other arguments. Else its argument is a file: {"connectors": [{"config": {}, "cases": [{"name", "table", "partitions", "transforms": [{}],
 * "key": {}, "value": {}, "header": {}}]}]}, where a transformation or converter has its class in "type". A connector is
 * done when a row of the table zz_end has come. The first line has the names of the Event Router's options.
 */
public class Router {
    static final ObjectMapper JSON = new ObjectMapper();
    static final PrintStream OUT = System.out;

    record Case(String name, int partitions, List<Transformation<SourceRecord>> transforms, Converter key, Converter value,
            HeaderConverter header) {
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("connect")) {
            org.apache.kafka.connect.cli.ConnectStandalone.main(Arrays.copyOfRange(args, 1, args.length));
            return;
        }
        System.setOut(System.err); // what the libraries print is no answer
        OpenTelemetrySdk.builder()
                .setTracerProvider(SdkTracerProvider.builder().build())
                .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
                .buildAndRegisterGlobal();
        ArrayNode options = JSON.createArrayNode();
        new io.debezium.transforms.outbox.EventRouter<SourceRecord>().config().names().forEach(options::add);
        OUT.println(JSON.createObjectNode().set("options", options));
        List<Map<String, String>> configs = new ArrayList<>();
        List<Map<String, Case>> cases = new ArrayList<>();
        List<SourceTask> tasks = new ArrayList<>();
        for (JsonNode c : JSON.readTree(new java.io.File(args[0])).get("connectors")) {
            Map<String, String> config = strings(c.get("config"));
            configs.add(config);
            cases.add(cases(config.get("topic.prefix"), c.get("cases")));
            tasks.add(start(config));
        }
        for (int i = 0; i < tasks.size(); i++) {
            run(tasks.get(i), configs.get(i).get("topic.prefix") + ".public.zz_end", cases.get(i));
        }
        OUT.flush();
        Runtime.getRuntime().halt(0); // its connection and threads end with it
    }

    static Map<String, Case> cases(String prefix, JsonNode list) throws Exception {
        Map<String, Case> byTopic = new HashMap<>();
        for (JsonNode n : list) {
            List<Transformation<SourceRecord>> transforms = new ArrayList<>();
            for (JsonNode t : n.get("transforms")) {
                Map<String, String> config = strings(t);
                @SuppressWarnings("unchecked")
                var transform = (Transformation<SourceRecord>) make(config);
                transform.configure(config);
                transforms.add(transform);
            }
            Map<String, String> key = strings(n.get("key")), value = strings(n.get("value")), header = strings(n.get("header"));
            Converter keyConverter = (Converter) make(key), valueConverter = (Converter) make(value);
            keyConverter.configure(key, true);
            valueConverter.configure(value, false);
            header.put("converter.type", "header");
            HeaderConverter headerConverter = (HeaderConverter) make(header);
            headerConverter.configure(header);
            byTopic.put(prefix + "." + n.get("table").asText(), new Case(n.get("name").asText(), n.get("partitions").asInt(),
                    transforms, keyConverter, valueConverter, headerConverter));
        }
        return byTopic;
    }

    static SourceTask start(Map<String, String> given) throws Exception {
        PostgresConnector connector = new PostgresConnector();
        connector.initialize(new org.apache.kafka.connect.source.SourceConnectorContext() {
            @Override
            public void requestTaskReconfiguration() {
            }

            @Override
            public void raiseError(Exception e) {
                throw new IllegalStateException(e);
            }

            @Override
            public OffsetStorageReader offsetStorageReader() {
                return new NoOffsets();
            }

            @Override
            public PluginMetrics pluginMetrics() {
                return null;
            }
        });
        connector.start(given);
        Map<String, String> config = connector.taskConfigs(1).get(0);
        SourceTask task = (SourceTask) connector.taskClass().getDeclaredConstructor().newInstance();
        task.initialize(new SourceTaskContext() {
            @Override
            public Map<String, String> configs() {
                return config;
            }

            @Override
            public OffsetStorageReader offsetStorageReader() {
                return new NoOffsets();
            }

            @Override
            public PluginMetrics pluginMetrics() {
                return null;
            }
        });
        task.start(config);
        return task;
    }

    static class NoOffsets implements OffsetStorageReader {
        @Override
        public <T> Map<String, Object> offset(Map<String, T> partition) {
            return null;
        }

        @Override
        public <T> Map<Map<String, T>, Map<String, Object>> offsets(Collection<Map<String, T>> partitions) {
            return Map.of();
        }
    }

    static void run(SourceTask task, String last, Map<String, Case> cases) throws Exception {
        long end = System.nanoTime() + Duration.ofMinutes(3).toNanos();
        for (boolean done = false; !done;) {
            if (System.nanoTime() > end) {
                throw new IllegalStateException("no row of " + last + " has come");
            }
            List<SourceRecord> records = task.poll();
            for (SourceRecord r : records == null ? List.<SourceRecord>of() : records) {
                done = done || r.topic().equals(last);
                Case c = cases.get(r.topic());
                if (c != null) {
                    print(c, r);
                }
            }
        }
    }

    static void print(Case c, SourceRecord r) throws Exception {
        ObjectNode line = JSON.createObjectNode().put("case", c.name);
        try {
            for (Transformation<SourceRecord> t : c.transforms) {
                r = t.apply(r);
                if (r == null) {
                    return; // dropped
                }
            }
            byte[] key = c.key.fromConnectData(r.topic(), new RecordHeaders(), r.keySchema(), r.key());
            byte[] value = c.value.fromConnectData(r.topic(), new RecordHeaders(), r.valueSchema(), r.value());
            line.put("topic", r.topic()).put("key", text(key)).put("value", text(value)).put("timestamp", r.timestamp());
            if (r.kafkaPartition() != null) {
                line.put("partition", r.kafkaPartition());
            }
            else if (key != null) { // as the producer chooses it
                line.put("partition", BuiltInPartitioner.partitionForKey(key, c.partitions));
            }
            ArrayNode headers = line.putArray("headers");
            for (Header h : r.headers()) {
                headers.addObject().put("key", h.key()).put("value", text(c.header.fromConnectHeader(r.topic(), h.key(), h.schema(), h.value())));
            }
        }
        catch (RuntimeException e) { // which would end the task
            line.put("error", e.toString());
        }
        OUT.println(JSON.writeValueAsString(line));
    }

    static String text(byte[] b) {
        return b == null ? null : Base64.getEncoder().encodeToString(b);
    }

    static Object make(Map<String, String> config) throws Exception {
        return Class.forName(config.get("type")).getDeclaredConstructor().newInstance();
    }

    static Map<String, String> strings(JsonNode n) {
        Map<String, String> out = new HashMap<>();
        n.fields().forEachRemaining(e -> out.put(e.getKey(), e.getValue().asText()));
        return out;
    }
}
