"""Outcomes and dead letters in queues and buckets: the services are moto's, the functions are the node's.

usage: destinations.py NODE SERVICES [PART...]
"""
import json
import re
import urllib.request

from sources import CHOSEN, NODE, answers, create, functions, left, objects, package, queue, queues, refused, run, until

INVALID = "InvalidParameterValueException"
HANDLER = """
def handler(event, context):
    print("SEEN")
    if event.get("fails") or "Records" in event:
        raise RuntimeError(event.get("fails", "no record is good") * event.get("times", 1))
    return {"seen": event}
"""


def deploy(name, once=True, **more):
    create(name, {"ZipFile": package(HANDLER)}, **more)
    if once:
        functions.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)


def told(name, **destinations):
    config = {member: {"Destination": arn} for member, arn in destinations.items()}
    functions.update_function_event_invoke_config(FunctionName=name, DestinationConfig=config)


def send(name, event):
    """Leaves an event with a function; returns the request's identifier."""
    sent = functions.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
    assert sent["StatusCode"] == 202, sent
    return sent["ResponseMetadata"]["RequestId"]


def messages(url, count):
    """So many messages of a queue, and then no more."""
    found = []

    def receive():
        got = queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        for message in got.get("Messages", []):
            queues.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            found.append(message)
        return len(found) >= count

    until(f"{count} messages", receive)
    assert len(found) == count and left(url) == 0, found
    return found


def stored(bucket, prefix):
    """The only object under a prefix: its key and its record."""
    listed = lambda: objects.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents")
    (found,) = until(f"an object under {prefix}", listed)
    return found["Key"], json.load(objects.get_object(Bucket=bucket, Key=found["Key"])["Body"])


def post(path, body, kind="application/json"):
    # On loopback a key of twelve digits names the account, whatever the signature.
    headers = {"content-type": kind, "Authorization": "AWS4-HMAC-SHA256 Credential=123456789012/any"}
    request = urllib.request.Request(f"{NODE}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return reply.read()


def given_up(name):
    """Records of a function that its destinations did not take."""
    with urllib.request.urlopen(f"{NODE}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    counts = [line.split()[1] for line in lines if "event_destination_errors_total" in line and f'"{name}"' in line]
    return sum(map(float, counts))


def dead_letters_reach_a_queue():
    url, arn = queue("letters")
    deploy("buried", DeadLetterConfig={"TargetArn": arn})
    send("buried", {"n": 1})
    request = send("buried", {"n": 2, "fails": "no good"})
    (letter,) = messages(url, 1)
    assert json.loads(letter["Body"]) == {"n": 2, "fails": "no good"}, letter
    attributes = {name: (value["DataType"], value["StringValue"]) for name, value in letter["MessageAttributes"].items()}
    assert attributes == {
        "RequestID": ("String", request),
        "ErrorCode": ("Number", "200"),
        "ErrorMessage": ("String", "no good"),
    }, attributes
    # A function that may not run at all.
    functions.put_function_concurrency(FunctionName="buried", ReservedConcurrentExecutions=0)
    send("buried", {"n": 3})
    (letter,) = messages(url, 1)
    assert letter["MessageAttributes"]["ErrorCode"]["StringValue"] == "429", letter


def outcomes_reach_queues():
    (good, good_arn), (bad, bad_arn) = queue("good"), queue("bad")
    deploy("telling")
    told("telling", OnSuccess=good_arn, OnFailure=bad_arn)
    request = send("telling", {"n": 1})
    send("telling", {"n": 2, "fails": "no good"})
    (success,), (failure,) = messages(good, 1), messages(bad, 1)
    record = json.loads(success["Body"])
    assert record["requestContext"]["requestId"] == request, record
    assert record["requestContext"]["condition"] == "Success", record
    assert (record["requestPayload"], record["responsePayload"]) == ({"n": 1}, {"seen": {"n": 1}}), record
    assert "MessageAttributes" not in success, success
    record = json.loads(failure["Body"])
    assert record["requestContext"]["condition"] == "RetriesExhausted", record
    assert record["responseContext"]["functionError"] == "Unhandled", record
    assert record["requestPayload"]["n"] == 2, record


def a_queues_limit_holds():
    url, arn = queue("narrow", MaximumMessageSize="2048")
    deploy("wordy", DeadLetterConfig={"TargetArn": arn})
    send("wordy", {"fails": "small", "text": "x" * 100})
    messages(url, 1)
    assert given_up("wordy") == 0
    send("wordy", {"fails": "large", "text": "x" * 3000})
    until("the refusal", lambda: given_up("wordy") == 1)
    assert left(url) == 0, "a dead letter is whole or not there"
    functions.update_function_configuration(FunctionName="wordy", DeadLetterConfig={"TargetArn": ""})
    functions.get_waiter("function_updated_v2").wait(FunctionName="wordy")
    # Of a record the payloads can be left out.
    told("wordy", OnFailure=arn)
    for text, has_payload in (("x" * 100, True), ("x" * 3000, False)):
        send("wordy", {"fails": "again", "text": text})
        (message,) = messages(url, 1)
        assert ("requestPayload" in json.loads(message["Body"])) == has_payload, message
    # A queue that was made anew, and takes more.
    queues.delete_queue(QueueUrl=url)
    url, _ = queue("narrow")
    send("wordy", {"fails": "again", "text": "x" * 3000})
    (message,) = messages(url, 1)
    assert "requestPayload" in json.loads(message["Body"]), message


def failures_reach_a_bucket():
    objects.create_bucket(Bucket="failures")
    arn = "arn:aws:s3:::failures"
    deploy("archived")
    told("archived", OnFailure=arn)
    send("archived", {"n": 1})
    send("archived", {"n": 2, "fails": "no good", "text": "x" * 900_000})
    key, record = stored("failures", "aws/lambda/async/archived/")
    uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert re.fullmatch(rf"aws/lambda/async/archived/[0-9/]{{10}}/[0-9-]{{10}}T[0-9.]{{8}}-{uuid}", key), key
    assert len(record["requestPayload"]["text"]) == 900_000, "an object holds the whole record"
    assert record["requestContext"]["condition"] == "RetriesExhausted", record["requestContext"]


def a_lost_batch_is_told_to_queues_and_buckets():
    post("/v1/streams", {"name": "orders"})
    url, queue_arn = queue("lost")
    objects.create_bucket(Bucket="batches")
    ids = {}
    for name, arn in (("breaks", queue_arn), ("breaking", "arn:aws:s3:::batches")):
        deploy(name, once=False)
        made = functions.create_event_source_mapping(
            FunctionName=name, EventSourceArn="arn:aws:kinesis:us-east-1:123456789012:stream/orders",
            StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=0,
            DestinationConfig={"OnFailure": {"Destination": arn}})
        assert made["DestinationConfig"]["OnFailure"]["Destination"] == arn, made
        ids[name] = made["UUID"]
    post("/v1/streams/orders/events", {"body": "one"}, "application/x-ndjson")
    (message,) = messages(url, 1)
    record = json.loads(message["Body"])
    assert record["KinesisBatchInfo"]["batchSize"] == 1 and "payload" not in record, record
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted", record
    key, kept = stored("batches", f"aws/lambda/{ids['breaking']}/shardId-000000000000/")
    assert kept["KinesisBatchInfo"] == record["KinesisBatchInfo"], (key, kept)
    assert json.loads(kept["payload"])["Records"][0]["eventSource"] == "aws:kinesis", kept
    for mapping in ids.values():
        functions.delete_event_source_mapping(UUID=mapping)


def what_is_not_there_is_refused():
    _, arn = queue("there")
    queue("line.fifo", FifoQueue="true")
    deploy("picky", once=False)
    named = lambda name: arn.replace("there", name)
    function = lambda name: f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
    put = lambda **config: functions.put_function_event_invoke_config(
        FunctionName="picky",
        DestinationConfig={member: {"Destination": destination} for member, destination in config.items()})
    bury = lambda target: functions.update_function_configuration(
        FunctionName="picky", DeadLetterConfig={"TargetArn": target})
    born = lambda target: create("unborn", {"ZipFile": package(HANDLER)}, DeadLetterConfig={"TargetArn": target})
    for call in (bury, born):
        for target, code, says in [
            ("foo", "ValidationException", "deadLetterConfig.targetArn"),
            (named("nobody"), INVALID, "QueueDoesNotExist"),
            (named("line.fifo"), INVALID, "FIFO"),
            (function("picky"), INVALID, "dead-letter"),
            ("arn:aws:s3:::failures", INVALID, "OnFailure"),
            ("arn:aws:kinesis:us-east-1:123456789012:stream/nobody", INVALID, "Stream not found"),
        ]:
            message = refused(code, call, target=target)
            assert says in message, message
    refused("ResourceNotFoundException", functions.get_function, FunctionName="unborn")
    for config, says in [
        ({"OnSuccess": named("nobody")}, "QueueDoesNotExist"),
        ({"OnFailure": named("line.fifo")}, "FIFO"),
        ({"OnFailure": "arn:aws:s3:::nobodys-bucket"}, "no bucket"),
        ({"OnSuccess": "arn:aws:s3:::failures"}, "failures only"),
        ({"OnSuccess": function("picky")}, "itself"),
        ({"OnFailure": function("picky:$LATEST")}, "itself"),
        ({"OnFailure": function("nobody")}, "Function not found"),
    ]:
        message = refused(INVALID, put, **config)
        assert says in message, message
    # The control: what is there is taken, and two functions may tell each other.
    bury(arn)
    deploy("other", once=False)
    put(OnSuccess=arn, OnFailure=function("other"))
    functions.put_function_event_invoke_config(
        FunctionName="other", DestinationConfig={"OnFailure": {"Destination": function("picky")}})


def without_endpoints_names_are_streams():
    arn = "arn:aws:sqs:us-east-1:123456789012:plain"
    deploy("alone", once=False)
    bury = lambda: functions.update_function_configuration(
        FunctionName="alone", DeadLetterConfig={"TargetArn": arn})
    message = refused(INVALID, bury)
    assert "bowline stream create plain" in message and "--sqs-endpoint" in message, message
    bucket = {"OnFailure": {"Destination": "arn:aws:s3:::failures"}}
    put = lambda: functions.put_function_event_invoke_config(FunctionName="alone", DestinationConfig=bucket)
    message = refused(INVALID, put)
    assert "--s3-endpoint" in message, message
    post("/v1/streams", {"name": "plain"})
    assert bury()["DeadLetterConfig"]["TargetArn"] == arn


def a_queue_for_later():
    _, arn = queue("away")
    deploy("patient", DeadLetterConfig={"TargetArn": arn})


def runs(name):
    """How often a function has run."""
    request = urllib.request.Request(f"{NODE}/v1/functions/{name}/logs",
                                     headers={"Authorization": "AWS4-HMAC-SHA256 Credential=123456789012/any"})
    return answers(lambda: urllib.request.urlopen(request).read().decode().count("SEEN"))


def waiting(name, count):
    """Waits until so many records of a function lie on disk."""

    def laid_by():
        with urllib.request.urlopen(f"{NODE}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        counts = [line.split()[1] for line in lines if "event_destination_waits_total" in line and f'"{name}"' in line]
        return sum(map(float, counts)) == count

    until(f"{count} records of {name} that wait", laid_by)


def something_fails_while_the_queue_is_away():
    for number in range(5):
        send("patient", {"n": number, "fails": "no good"})
    until("all runs", lambda: runs("patient") == 5)
    waiting("patient", 5)


def it_arrives_when_the_queue_is_back():
    url, _ = queue("away")
    letters = messages(url, 5)
    assert runs("patient") == 5, "what waits is not done again"
    assert {json.loads(letter["Body"])["n"] for letter in letters} == set(range(5)), letters
    assert all(letter["MessageAttributes"]["ErrorMessage"]["StringValue"] == "no good" for letter in letters), letters
    assert given_up("patient") == 0


def a_stream_is_named_instead():
    post("/v1/streams", {"name": "instead"})
    target = {"TargetArn": "arn:aws:kinesis:us-east-1:123456789012:stream/instead"}
    functions.update_function_configuration(FunctionName="patient", DeadLetterConfig=target)

    def kept():
        with urllib.request.urlopen(f"{NODE}/v1/streams/instead/events?from=oldest") as reply:
            return len(json.load(reply)["events"]) == 5

    until("the letters in the stream", kept)
    assert given_up("patient") == 0


def destinations_for_later():
    _, arn = queue("apart", MaximumMessageSize="262144")
    objects.create_bucket(Bucket="apart")
    deploy("distant", DeadLetterConfig={"TargetArn": arn})
    told("distant", OnFailure="arn:aws:s3:::apart")


def failures_where_nobody_knows_the_services():
    send("distant", {"n": 0, "fails": "x" * 1000, "times": 1500, "text": "y" * 900_000})
    for number in (1, 2):
        send("distant", {"n": number, "fails": "no good"})
    # Each has an outcome for the bucket and a letter for the queue.
    waiting("distant", 6)
    # Control: what goes to a function does not wait.
    deploy("near")
    deploy("close")
    told("close", OnFailure="arn:aws:lambda:us-east-1:123456789012:function:near")
    send("close", {"n": 3, "fails": "no good"})
    until("the record at the function", lambda: runs("near") == 1)
    waiting("close", 0)
    assert given_up("distant") == 0


def they_arrive_where_somebody_does():
    listed = lambda: objects.list_objects_v2(Bucket="apart").get("Contents", [])
    until("three objects", lambda: len(listed()) == 3)
    bodies = [json.load(objects.get_object(Bucket="apart", Key=found["Key"])["Body"]) for found in listed()]
    records = {record["requestPayload"]["n"]: record for record in bodies}
    assert set(records) == {0, 1, 2}, set(records)
    # More than an event of a stream holds comes whole out of what waited.
    assert records[0]["requestPayload"]["text"] == "y" * 900_000
    assert records[0]["responsePayload"]["errorMessage"] == "x" * 1_500_000
    assert records[1]["responsePayload"]["errorMessage"] == "no good", records[1]
    url = queues.get_queue_url(QueueName="apart")["QueueUrl"]
    assert {json.loads(letter["Body"])["n"] for letter in messages(url, 2)} == {1, 2}
    until("the letter that no queue takes", lambda: given_up("distant") == 1)


def a_bucket_for_later():
    objects.create_bucket(Bucket="away")
    deploy("patient")
    told("patient", OnFailure="arn:aws:s3:::away")


def something_fails():
    send("patient", {"n": 1, "fails": "no good"})
    waiting("patient", 1)


def it_is_in_the_bucket_and_has_run_once():
    objects.create_bucket(Bucket="away")
    _, record = stored("away", "aws/lambda/async/patient/")
    assert record["requestPayload"]["n"] == 1, record
    assert runs("patient") == 1 and given_up("patient") == 0


PARTS = [
    dead_letters_reach_a_queue,
    outcomes_reach_queues,
    a_queues_limit_holds,
    failures_reach_a_bucket,
    a_lost_batch_is_told_to_queues_and_buckets,
    what_is_not_there_is_refused,
]
if __name__ == "__main__":
    run([globals()[name] for name in CHOSEN] or PARTS)
