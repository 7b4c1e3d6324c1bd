"""Create what one group of consumers needs: its stream, its dead letters, its lease table and what belongs to it.

LocalStack runs it once it is ready, with and without a container. The names are the defaults of KinesisConfig;
`cdc_core.provision` makes the same, and finds nothing to do after this. Running it again changes nothing.
"""

import os
from typing import Any

import boto3

STREAM = os.environ.get("CDC_STREAM_NAME") or "cdc"
GROUP = os.environ.get("CDC_GROUP_ID") or "cdc"
SHARDS = int(os.environ.get("CDC_SHARD_COUNT") or 2)
PORT = (os.environ.get("GATEWAY_LISTEN") or ":4566").split(",")[0].rpartition(":")[2]

# LocalStack takes any credentials; these mean its default account.
session: Any = boto3.Session(
    aws_access_key_id="test",
    aws_secret_access_key="test",
    region_name=os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
)
kinesis = session.client("kinesis", endpoint_url=f"http://127.0.0.1:{PORT}")
dynamodb = session.client("dynamodb", endpoint_url=f"http://127.0.0.1:{PORT}")

for name, shards in ((STREAM, SHARDS), (f"{STREAM}-{GROUP}-dead-letters", 1)):
    try:
        kinesis.create_stream(StreamName=name, ShardCount=shards)
    except kinesis.exceptions.ResourceInUseException:
        continue
for name, key in ((f"{STREAM}-{GROUP}", "leaseKey"), (f"{STREAM}-{GROUP}-cdc-meta", "name")):
    try:
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        )
    except dynamodb.exceptions.ResourceInUseException:
        continue
