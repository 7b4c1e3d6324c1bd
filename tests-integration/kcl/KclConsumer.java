import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.http.Protocol;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.common.StreamIdentifier;
import software.amazon.kinesis.coordinator.CoordinatorConfig;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.leases.LeaseManagementConfig;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.KinesisClientRecord;
import software.amazon.kinesis.retrieval.RetrievalConfig;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * A consumer of the Kinesis Client Library that does what its standard input says and prints what it sees.
 *
 * Arguments: stream, application, worker, Kinesis endpoint, DynamoDB endpoint, initial position, client version
 * ("" for the library's default). Standard output: one JSON object a line. Standard input:
 *
 *     checkpoint SHARD SEQUENCE SUBSEQUENCE    everything up to and with this record is done
 *     stop                                     shut down gracefully and end; so does the end of the input
 *
 * Nothing is checkpointed but what it is told, and the end of a shard.
 */
public final class KclConsumer {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final Map<String, RecordProcessorCheckpointer> CHECKPOINTERS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        Scheduler scheduler = scheduler(arguments);
        Thread thread = new Thread(scheduler, "scheduler");
        thread.setDaemon(true);
        thread.start();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null && !line.equals("stop"); line = commands.readLine()) {
            String[] words = line.split(" ");
            CHECKPOINTERS.get(words[1]).checkpoint(words[2], Long.parseLong(words[3]));
            print("checkpointed", words[1], "");
        }
        // Waits for the shards that it still holds, an ended one among them for ever (seen in 2.7.2).
        try {
            scheduler.startGracefulShutdown().get(3, TimeUnit.SECONDS);
        } catch (TimeoutException stillWaiting) {
            scheduler.shutdown();
            thread.join(10_000);
        }
        print("stopped", "", "");
        Runtime.getRuntime().halt(0);
    }

    private static Scheduler scheduler(String[] arguments) throws Exception {
        String stream = arguments[0];
        AwsCredentialsProvider credentials =
            StaticCredentialsProvider.create(AwsBasicCredentials.create("test", "test"));
        KinesisAsyncClient kinesis = KinesisAsyncClient.builder()
            .endpointOverride(URI.create(arguments[3])).region(Region.US_EAST_1).credentialsProvider(credentials)
            .httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1)).build();
        DynamoDbAsyncClient dynamodb = DynamoDbAsyncClient.builder()
            .endpointOverride(URI.create(arguments[4])).region(Region.US_EAST_1).credentialsProvider(credentials)
            .build();
        CloudWatchAsyncClient metrics = CloudWatchAsyncClient.builder()
            .region(Region.US_EAST_1).credentialsProvider(credentials).build();
        InitialPositionInStreamExtended position = InitialPositionInStreamExtended.newInitialPosition(
            InitialPositionInStream.valueOf(arguments[5]));
        ConfigsBuilder configs = new ConfigsBuilder(
            new SingleStreamTracker(StreamIdentifier.singleStreamInstance(stream), position),
            arguments[1], kinesis, dynamodb, metrics, arguments[2], Processor::new);
        CoordinatorConfig coordinator = configs.coordinatorConfig()
            .parentShardPollIntervalMillis(250).shardConsumerDispatchPollIntervalMillis(100)
            .schedulerInitializationBackoffTimeMillis(250);
        if (!arguments[6].isEmpty()) {
            setClientVersion(coordinator, arguments[6]);
        }
        LeaseManagementConfig leases = configs.leaseManagementConfig()
            .failoverTimeMillis(3000).shardSyncIntervalMillis(3000)
            .leasesRecoveryAuditorExecutionFrequencyMillis(3000);
        RetrievalConfig retrieval = configs.retrievalConfig()
            .retrievalSpecificConfig(new PollingConfig(stream, kinesis).idleTimeBetweenReadsInMillis(250));
        return new Scheduler(configs.checkpointConfig(), coordinator, leases, configs.lifecycleConfig(),
            configs.metricsConfig().metricsFactory(new NullMetricsFactory()), configs.processorConfig(), retrieval);
    }

    /** By name: version 2 of the library has no such setting. */
    private static void setClientVersion(CoordinatorConfig coordinator, String name) throws Exception {
        Class<?> type = Class.forName(CoordinatorConfig.class.getName() + "$ClientVersionConfig");
        for (Object value : type.getEnumConstants()) {
            if (value.toString().equals("CLIENT_VERSION_CONFIG_" + name)) {
                CoordinatorConfig.class.getMethod("clientVersionConfig", type).invoke(coordinator, value);
                return;
            }
        }
        throw new IllegalArgumentException(name);
    }

    private static void print(String event, String shard, String more) {
        OUT.println("{\"event\":" + quoted(event) + ",\"shard\":" + quoted(shard) + more + "}");
    }

    private static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder json = new StringBuilder("\"");
        for (char letter : text.toCharArray()) {
            boolean plain = letter >= ' ' && letter <= '~' && letter != '"' && letter != '\\';
            json.append(plain ? String.valueOf(letter) : String.format("\\u%04x", (int) letter));
        }
        return json.append('"').toString();
    }

    private static final class Processor implements ShardRecordProcessor {
        private String shard = "";

        @Override
        public void initialize(InitializationInput input) {
            shard = input.shardId();
            print("initialized", shard, ",\"sequence\":" + quoted(input.extendedSequenceNumber().sequenceNumber())
                + ",\"sub_sequence\":" + input.extendedSequenceNumber().subSequenceNumber());
        }

        @Override
        public void processRecords(ProcessRecordsInput input) {
            CHECKPOINTERS.put(shard, input.checkpointer());
            for (KinesisClientRecord record : input.records()) {
                byte[] data = new byte[record.data().remaining()];
                record.data().duplicate().get(data);
                print("record", shard, ",\"sequence\":" + quoted(record.sequenceNumber())
                    + ",\"sub_sequence\":" + record.subSequenceNumber()
                    + ",\"aggregated\":" + record.aggregated()
                    + ",\"partition_key\":" + quoted(record.partitionKey())
                    + ",\"explicit_hash_key\":" + quoted(record.explicitHashKey())
                    + ",\"data\":" + quoted(Base64.getEncoder().encodeToString(data)));
            }
        }

        @Override
        public void leaseLost(LeaseLostInput input) {
            CHECKPOINTERS.remove(shard);
            print("lease_lost", shard, "");
        }

        @Override
        public void shardEnded(ShardEndedInput input) {
            try {
                input.checkpointer().checkpoint();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
            print("shard_ended", shard, "");
        }

        @Override
        public void shutdownRequested(ShutdownRequestedInput input) {
            print("shutdown_requested", shard, "");
        }
    }
}
