"""What leases need of DynamoDB, on every server that stands in for it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from aws_servers import AwsServer, error_code, eventually, on_dynamodb, refused
from botocore.exceptions import ClientError

CHECK_FAILED = "ConditionalCheckFailedException"


@contextmanager
def lease_table(server: AwsServer) -> Generator[tuple[Any, str]]:
    """A table of the KCL's shape, and a client."""
    client = server.client("dynamodb")
    name = f"conformance-{secrets.token_hex(6)}"
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
    )
    eventually(lambda: client.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE" or None)
    try:
        yield client, name
    finally:
        client.delete_table(TableName=name)
        client.close()


def key(number: int = 0) -> dict[str, Any]:
    return {"leaseKey": {"S": f"shardId-{number:012d}"}}


def create(client: Any, table: str, number: int = 0) -> None:
    client.put_item(
        TableName=table,
        Item={**key(number), "leaseCounter": {"N": "0"}, "checkpoint": {"S": "TRIM_HORIZON"}},
        ConditionExpression="attribute_not_exists(leaseKey)",
    )


def take(client: Any, table: str, counter: int, owner: str = "one", **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.update_item(
        TableName=table,
        Key=key(),
        UpdateExpression="SET leaseOwner = :owner, leaseCounter = :next REMOVE checkpointOwner "
        "ADD ownerSwitchesSinceCheckpoint :one",
        ConditionExpression="leaseCounter = :counter",
        ExpressionAttributeValues={
            ":owner": {"S": owner},
            ":counter": {"N": str(counter)},
            ":next": {"N": str(counter + 1)},
            ":one": {"N": "1"},
        },
        **more,
    )
    return answer


def read(client: Any, table: str, number: int = 0) -> dict[str, Any]:
    item: dict[str, Any] = client.get_item(TableName=table, Key=key(number), ConsistentRead=True)["Item"]
    return item


@on_dynamodb()
def test_a_row_is_created_once(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        take(client, table, 0)
        with refused(CHECK_FAILED):
            create(client, table)
        assert read(client, table)["leaseCounter"] == {"N": "1"}


@on_dynamodb()
def test_a_counter_lets_one_of_two_takers_through(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        answer = take(client, table, 0, ReturnValues="ALL_NEW")["Attributes"]
        assert answer["leaseOwner"] == {"S": "one"}
        assert answer["ownerSwitchesSinceCheckpoint"] == {"N": "1"}
        with refused(CHECK_FAILED):
            take(client, table, 0, "other")
        assert read(client, table)["leaseOwner"] == {"S": "one"}


@on_dynamodb()
def test_who_comes_too_late_is_told_what_stands_there(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        take(client, table, 0)
        with pytest.raises(ClientError) as caught:
            take(client, table, 0, "other", ReturnValuesOnConditionCheckFailure="ALL_OLD")
        assert error_code(caught.value) == CHECK_FAILED
        response: dict[str, Any] = {**caught.value.response}
        item = response["Item"]
        assert (item["leaseOwner"], item["leaseCounter"]) == ({"S": "one"}, {"N": "1"})


@on_dynamodb()
def test_of_eight_takers_at_once_one_wins_each_counter(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        wins: list[int] = []
        start = threading.Barrier(8)

        def race() -> None:
            start.wait()
            for _ in range(5):
                counter = int(read(client, table)["leaseCounter"]["N"])
                try:
                    take(client, table, counter)
                except ClientError as error:
                    if error_code(error) != CHECK_FAILED:
                        raise
                else:
                    wins.append(counter)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(wins) == list(range(int(read(client, table)["leaseCounter"]["N"])))


@on_dynamodb()
def test_an_update_sets_and_removes_attributes_and_leaves_the_others(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        client.update_item(
            TableName=table,
            Key=key(),
            UpdateExpression="SET parentShardId = :parents, childShardIds = :children, "
            "pendingCheckpointState = :state, throughputKBps = :rate",
            ExpressionAttributeValues={
                ":parents": {"SS": ["a", "b"]},
                ":children": {"SS": ["c"]},
                ":state": {"B": b"\x00\x01"},
                ":rate": {"N": "0.000501"},
            },
        )
        client.update_item(
            TableName=table,
            Key=key(),
            UpdateExpression="SET #checkpoint = :end REMOVE pendingCheckpointState, notThere",
            ConditionExpression="leaseCounter = :zero AND attribute_not_exists(leaseOwner)",
            ExpressionAttributeNames={"#checkpoint": "checkpoint"},
            ExpressionAttributeValues={":end": {"S": "SHARD_END"}, ":zero": {"N": "0"}},
        )
        row = read(client, table)
        assert set(row.pop("parentShardId")["SS"]) == {"a", "b"}
        assert row == {
            **key(),
            "leaseCounter": {"N": "0"},
            "checkpoint": {"S": "SHARD_END"},
            "childShardIds": {"SS": ["c"]},
            "throughputKBps": {"N": "0.000501"},
        }


@on_dynamodb()
def test_a_condition_may_be_about_two_attributes(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        take(client, table, 0)

        def renew(owner: str) -> None:
            client.update_item(
                TableName=table,
                Key=key(),
                UpdateExpression="SET leaseCounter = leaseCounter + :one",
                ConditionExpression="leaseCounter = :counter AND leaseOwner = :owner",
                ExpressionAttributeValues={
                    ":one": {"N": "1"},
                    ":counter": {"N": "1"},
                    ":owner": {"S": owner},
                },
            )

        with refused(CHECK_FAILED):
            renew("other")
        renew("one")
        assert read(client, table)["leaseCounter"] == {"N": "2"}


@on_dynamodb()
def test_the_former_form_of_conditions_works_too(dynamodb: AwsServer) -> None:
    # `Expected` and `AttributeUpdates`: what the KCL sends.
    with lease_table(dynamodb) as (client, table):
        create(client, table)

        def renew(counter: int) -> None:
            client.update_item(
                TableName=table,
                Key=key(),
                AttributeUpdates={"leaseCounter": {"Value": {"N": str(counter + 1)}, "Action": "PUT"}},
                Expected={"leaseCounter": {"Value": {"N": str(counter)}}},
            )

        renew(0)
        with refused(CHECK_FAILED):
            renew(0)
        assert read(client, table)["leaseCounter"] == {"N": "1"}


@on_dynamodb()
def test_an_update_without_a_condition_makes_the_row_and_with_one_does_not(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        with refused(CHECK_FAILED):
            take(client, table, 0)
        assert "Item" not in client.get_item(TableName=table, Key=key())
        client.update_item(
            TableName=table,
            Key=key(),
            UpdateExpression="SET checkpoint = :start",
            ExpressionAttributeValues={":start": {"S": "LATEST"}},
        )
        assert read(client, table) == {**key(), "checkpoint": {"S": "LATEST"}}


@on_dynamodb()
def test_a_row_is_deleted_on_a_condition(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        create(client, table)
        condition: dict[str, Any] = {
            "ConditionExpression": "#checkpoint = :end",
            "ExpressionAttributeNames": {"#checkpoint": "checkpoint"},
        }
        for end, deleted in (("SHARD_END", False), ("TRIM_HORIZON", True)):
            values = {":end": {"S": end}}
            if deleted:
                client.delete_item(TableName=table, Key=key(), ExpressionAttributeValues=values, **condition)
            else:
                with refused(CHECK_FAILED):
                    client.delete_item(
                        TableName=table, Key=key(), ExpressionAttributeValues=values, **condition
                    )
        assert "Item" not in client.get_item(TableName=table, Key=key(), ConsistentRead=True)


@on_dynamodb()
def test_a_scan_has_pages_and_finds_every_row(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        for number in range(7):
            create(client, table, number)
        found: list[str] = []
        query: dict[str, Any] = {"TableName": table, "Limit": 3, "ConsistentRead": True}
        pages = 0
        while True:
            answer = client.scan(**query)
            pages += 1
            found += [item["leaseKey"]["S"] for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                break
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        assert pages >= 3
        assert sorted(found) == [key(number)["leaseKey"]["S"] for number in range(7)]


@on_dynamodb()
def test_a_scan_ends_its_page_at_a_mebibyte(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        for number in range(4):
            item = {**key(number), "filling": {"S": "x" * 390_000}}
            client.put_item(TableName=table, Item=item)
        answer = client.scan(TableName=table)
        assert 1 <= len(answer["Items"]) < 4
        assert "LastEvaluatedKey" in answer


@on_dynamodb()
def test_a_name_is_taken_once_and_a_missing_table_is_said_to_be_missing(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        with refused("ResourceInUseException"):
            client.create_table(
                TableName=table,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
            )
        description = client.describe_table(TableName=table)["Table"]
        assert description["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        with refused("ResourceNotFoundException"):
            client.describe_table(TableName="conformance-nobody-made-it")
        with refused("ResourceNotFoundException"):
            client.get_item(TableName="conformance-nobody-made-it", Key=key())


@on_dynamodb(dynamodb_local="does not know it")
def test_point_in_time_recovery_can_be_switched_on(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        client.update_continuous_backups(
            TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
        described = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
        assert described["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


@on_dynamodb(dynamodb_local="does not know it")
def test_a_table_keeps_its_tags(dynamodb: AwsServer) -> None:
    with lease_table(dynamodb) as (client, table):
        arn = client.describe_table(TableName=table)["Table"]["TableArn"]
        client.tag_resource(ResourceArn=arn, Tags=[{"Key": "cdc", "Value": "yes"}])
        assert client.list_tags_of_resource(ResourceArn=arn)["Tags"] == [{"Key": "cdc", "Value": "yes"}]


@on_dynamodb(moto="takes shorter ones")
def test_a_name_has_three_characters(dynamodb: AwsServer) -> None:
    client = dynamodb.client("dynamodb")
    with refused("ValidationException"):
        client.create_table(
            TableName="ab",
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
        )
    client.close()
