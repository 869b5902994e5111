import com.fasterxml.jackson.databind.ObjectMapper;
import io.eventuate.common.eventuate.local.BinlogFileOffset;
import io.eventuate.common.id.ApplicationIdGenerator;
import io.eventuate.common.id.DatabaseIdGenerator;
import io.eventuate.common.id.IdGenerator;
import io.eventuate.common.jdbc.EventuateCommonJdbcOperations;
import io.eventuate.common.jdbc.EventuateCommonJdbcStatementExecutor;
import io.eventuate.common.jdbc.EventuateJdbcOperationsUtils;
import io.eventuate.common.jdbc.EventuateSchema;
import io.eventuate.common.jdbc.OutboxPartitioningSpec;
import io.eventuate.common.jdbc.sqldialect.PostgresDialect;
import io.eventuate.local.common.BinlogEntry;
import io.eventuate.messaging.kafka.basic.consumer.DefaultKafkaConsumerFactory;
import io.eventuate.messaging.kafka.basic.consumer.EventuateKafkaConsumerConfigurationProperties;
import io.eventuate.messaging.kafka.consumer.MessageConsumerKafkaImpl;
import io.eventuate.messaging.kafka.consumer.OriginalTopicPartitionToSwimlaneMapping;
import io.eventuate.tram.cdc.connector.BinlogEntryToMessageConverter;
import io.eventuate.tram.cdc.connector.MessageWithDestination;
import io.eventuate.tram.cdc.connector.MessageWithDestinationPublishingStrategy;
import io.eventuate.tram.consumer.common.DecoratedMessageHandlerFactory;
import io.eventuate.tram.consumer.common.DuplicateDetectingMessageHandlerDecorator;
import io.eventuate.tram.consumer.common.DuplicateMessageDetector;
import io.eventuate.tram.consumer.common.MessageConsumerImpl;
import io.eventuate.tram.consumer.kafka.EventuateTramKafkaMessageConsumer;
import io.eventuate.tram.events.common.DefaultDomainEventNameMapping;
import io.eventuate.tram.events.common.DomainEvent;
import io.eventuate.tram.events.publisher.DomainEventPublisherImpl;
import io.eventuate.tram.events.subscriber.DomainEventDispatcher;
import io.eventuate.tram.events.subscriber.DomainEventHandlersBuilder;
import io.eventuate.tram.messaging.common.DefaultChannelMapping;
import io.eventuate.tram.messaging.common.Message;
import io.eventuate.tram.messaging.common.MessageInterceptor;
import io.eventuate.tram.messaging.common.SubscriberIdAndMessage;
import io.eventuate.tram.messaging.consumer.DefaultSubscriberMapping;
import io.eventuate.tram.messaging.consumer.MessageConsumer;
import io.eventuate.tram.messaging.producer.MessageBuilder;
import io.eventuate.tram.messaging.producer.MessageProducer;
import io.eventuate.tram.messaging.producer.common.MessageProducerImpl;
import io.eventuate.tram.messaging.producer.jdbc.MessageProducerJdbcImpl;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Writes messages as an application of Eventuate Tram does, says what Eventuate's CDC service would make of the rows, and
 * reads messages as a consumer of Tram does: all of it with Eventuate's own classes. It takes commands on its input, a line
 * each, and answers with lines of JSON, the last of which is {"done": "the command"}.
 */
public class TramJudge {
  private static final ObjectMapper MAPPER = new ObjectMapper();
  private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true, StandardCharsets.UTF_8);

  private final Connection connection;
  private final String brokers;

  TramJudge(String url, String user, String password, String brokers) throws Exception {
    this.connection = DriverManager.getConnection(url, user, password);
    this.brokers = brokers;
  }

  public static void main(String[] args) throws Exception {
    TramJudge judge = new TramJudge(args[0], args[1], args[2], args[3]);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null; ) {
      String[] words = line.split(" ");
      switch (words[0]) {
        case "write" -> judge.write(words[1]);
        case "convert" -> judge.convert(words[1], Long.parseLong(words[2]), words[3].equals("-") ? null : Integer.valueOf(words[3]));
        case "read" -> judge.read(Integer.parseInt(words[1]), words[2], new HashSet<>(Arrays.asList(words).subList(3, words.length)));
        default -> throw new IllegalArgumentException(line);
      }
      say(Map.of("done", line));
    }
    System.exit(0); // whatever threads Tram has left
  }

  private static synchronized void say(Map<String, ?> line) throws Exception {
    OUT.println(MAPPER.writeValueAsString(line));
  }

  // --- writing, as an application does -----------------------------------------------------------------------------

  private MessageProducer producer(String schema, IdGenerator ids, OutboxPartitioningSpec spec) {
    PostgresDialect dialect = new PostgresDialect();
    EventuateCommonJdbcOperations operations = new EventuateCommonJdbcOperations(
        new EventuateJdbcOperationsUtils(dialect), new EventuateCommonJdbcStatementExecutor(() -> connection), dialect, spec);
    return new MessageProducerImpl(new MessageInterceptor[0], DefaultChannelMapping.builder().build(),
        new MessageProducerJdbcImpl(operations, ids, new EventuateSchema(schema)));
  }

  /** The event of an aggregate. */
  public static class OrderPlaced implements DomainEvent {
    public String text;
  }

  private void write(String prefix) throws Exception {
    IdGenerator ids = new ApplicationIdGenerator(); // two of them on one host would make the same ids
    MessageProducer own = producer("eventuate", ids, OutboxPartitioningSpec.DEFAULT);
    MessageProducer json = producer("shop", ids, OutboxPartitioningSpec.DEFAULT);
    MessageProducer numbered = producer("numbered", new DatabaseIdGenerator(7), new OutboxPartitioningSpec(2, 4));
    String[] payloads = {
      "{\"n\": 1}", "", "no JSON at all", "größer als „nichts“ 😀 \u007f\u2028\u2029", "quotes \" and \\ and / and \t\n\r\b\f\u0001\u001f",
    };
    connection.setAutoCommit(false);
    for (int i = 0; i < 60; i++) {
      String payload = payloads[i % payloads.length] + (i < payloads.length ? "" : " " + i);
      send(own, prefix + "plain", message(payload, i));
      send(json, prefix + "json", message("{\"n\" : " + i + ", \"text\": \"ä\\u00e4\"}", i));
      send(numbered, prefix + "numbered", message(payload, i));
      if (i % 10 == 9) {
        connection.commit();
      }
    }
    DomainEventPublisherImpl events = new DomainEventPublisherImpl(own, new DefaultDomainEventNameMapping());
    for (int i = 0; i < 20; i++) {
      OrderPlaced placed = new OrderPlaced();
      placed.text = "placed \"" + i + "\" ä";
      events.publish(prefix + "Order", "order-" + i % 3, List.of(placed));
    }
    connection.commit();
    connection.setAutoCommit(true);
  }

  private static Message message(String payload, int i) {
    MessageBuilder message = MessageBuilder.withPayload(payload).withHeader("n", "" + i).withHeader("Grüße", "\"ä\"\\\n😀");
    return i % 4 == 3 ? message.build() : message.withHeader(Message.PARTITION_ID, "key-" + i % 7).build();
  }

  private static void send(MessageProducer producer, String channel, Message message) throws Exception {
    producer.send(channel, message);
    say(Map.of("sent", channel, "id", message.getId(), "headers", message.getHeaders(), "payload", message.getPayload()));
  }

  // --- what Eventuate's CDC service makes of the rows --------------------------------------------------------------

  private void convert(String table, long outboxId, Integer suffix) throws Exception {
    BinlogEntryToMessageConverter converter = new BinlogEntryToMessageConverter(new DatabaseIdGenerator(outboxId));
    MessageWithDestinationPublishingStrategy strategy = new MessageWithDestinationPublishingStrategy();
    try (ResultSet rows = connection.createStatement().executeQuery("select m.ctid::text as place, m.* from " + table + " m order by ctid")) {
      int columns = rows.getMetaData().getColumnCount();
      while (rows.next()) {
        Map<String, String> row = new HashMap<>(); // its reader of the log, wal2json, has texts as well
        for (int i = 1; i <= columns; i++) {
          row.put(rows.getMetaData().getColumnName(i), rows.getString(i));
        }
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("converted", row.get("place"));
        try {
          var converted = converter.convert(new BinlogEntry() {
            @Override public Object getColumn(String name) { return row.get(name); }
            @Override public BinlogFileOffset getBinlogFileOffset() { return null; }
          }, suffix);
          answer.put("published", converted.isPresent());
          if (converted.isPresent()) {
            MessageWithDestination message = converted.get();
            answer.put("topic", strategy.topicFor(message));
            answer.put("key", strategy.partitionKeyFor(message));
            answer.put("value", Base64.getEncoder().encodeToString(strategy.toJson(message).getBytes(StandardCharsets.UTF_8)));
            answer.put("id", message.getId());
          }
        } catch (RuntimeException e) {
          answer.put("failed", e.toString());
        }
        say(answer);
      }
    }
  }

  // --- reading, as a consumer does ---------------------------------------------------------------------------------

  /** Does what Tram's SqlTableBasedDuplicateMessageDetector does, in memory. */
  private static class Seen implements DuplicateMessageDetector {
    final Set<String> ids = ConcurrentHashMap.newKeySet();

    @Override public boolean isDuplicate(String consumer, String id) { return !ids.add(consumer + " " + id); }

    @Override public void doWithMessage(SubscriberIdAndMessage message, Runnable callback) {
      if (!isDuplicate(message.getSubscriberId(), message.getMessage().getId())) {
        callback.run();
      }
    }
  }

  private void read(int count, String prefix, Set<String> channels) throws Exception {
    CountDownLatch left = new CountDownLatch(count);
    MessageConsumer consumer = new MessageConsumerImpl(DefaultChannelMapping.builder().build(),
        new EventuateTramKafkaMessageConsumer(new MessageConsumerKafkaImpl(brokers, EventuateKafkaConsumerConfigurationProperties.empty(),
            new DefaultKafkaConsumerFactory(), new OriginalTopicPartitionToSwimlaneMapping())),
        new DecoratedMessageHandlerFactory(new ArrayList<>(List.of(new DuplicateDetectingMessageHandlerDecorator(new Seen())))), new DefaultSubscriberMapping());
    String order = prefix + "Order";
    if (channels.remove(order)) {
      new DomainEventDispatcher(prefix + "events", DomainEventHandlersBuilder.forAggregateType(order).onEvent(OrderPlaced.class, event -> {
        got(order, event.getMessage(), Map.of("aggregate", event.getAggregateType() + "/" + event.getAggregateId(),
            "event", event.getEventId(), "text", event.getEvent().text), left);
      }).build(), consumer, new DefaultDomainEventNameMapping()).initialize();
    }
    if (!channels.isEmpty()) {
      consumer.subscribe(prefix + "messages", channels, message -> got(message.getHeader(Message.DESTINATION).orElse(prefix + "strange"), message, Map.of(), left));
    }
    if (!left.await(60, TimeUnit.SECONDS)) {
      say(Map.of("failed", left.getCount() + " messages have not arrived"));
    }
    consumer.close();
  }

  private static void got(String channel, Message message, Map<String, String> more, CountDownLatch left) {
    try {
      Map<String, Object> answer = new LinkedHashMap<>(more);
      answer.put("got", channel);
      answer.put("id", message.getId());
      answer.put("headers", message.getHeaders());
      answer.put("payload", message.getPayload());
      say(answer);
    } catch (Exception e) {
      throw new RuntimeException(e);
    }
    left.countDown();
  }
}
