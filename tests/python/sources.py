"""Code from a bucket and events from a queue: the services are moto's, the functions are the node's.

usage: sources.py NODE SERVICES [PART...]
"""
import base64
import hashlib
import io
import json
import os
import sys
import time
import urllib.request
import zipfile

import boto3
from botocore.exceptions import ClientError

NODE, SERVICES, *CHOSEN = sys.argv[1:]
ROLE = "arn:aws:iam::123456789012:role/any"
PATIENCE = 60

functions = boto3.client("lambda", endpoint_url=NODE)
objects = boto3.client("s3", endpoint_url=SERVICES)
queues = boto3.client("sqs", endpoint_url=SERVICES)

HANDLER = """
import json, time

def handler(event, context):
    bodies = [record["body"] for record in event["Records"]]
    began = time.time()
    time.sleep(sum(0.2 for body in bodies if body.startswith("slow")))
    failed = [record["messageId"] for record in event["Records"]
              if record["body"] == "bad" and record["attributes"]["ApproximateReceiveCount"] == "1"]
    print("SEEN " + json.dumps({"bodies": bodies, "began": began, "ended": time.time(), "first": event["Records"][0]}))
    if "worse" in bodies:
        raise RuntimeError("worse")
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}
"""


def package(source, name="app.py"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, source)
    return buffer.getvalue()


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error.response["Error"]["Message"]
    raise AssertionError(f"{call.__name__} was not refused: {arguments}")


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come within {PATIENCE} s"
        time.sleep(0.05)
    return found


def create(name, code, **more):
    functions.create_function(FunctionName=name, Runtime=RUNTIME, Handler="app.handler", Role=ROLE, Code=code, **more)
    functions.get_waiter("function_active_v2").wait(FunctionName=name)


def answer(name):
    return json.load(functions.invoke(FunctionName=name)["Payload"])


def seen(name, node=NODE):
    """What the function has printed of its batches at a node."""
    # On loopback a key of twelve digits names the account, whatever the signature.
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=123456789012/any"}
    request = urllib.request.Request(f"{node}/v1/functions/{name}/logs", headers=headers)
    with urllib.request.urlopen(request) as reply:
        lines = reply.read().decode().splitlines()
    return [json.loads(line.split("SEEN ", 1)[1]) for line in lines if "SEEN " in line]


def bodies(name):
    return [body for batch in seen(name) for body in batch["bodies"]]


def left(url):
    """Messages of a queue, those in somebody's hands included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = queues.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)


def queue(name, **attributes):
    attributes.setdefault("VisibilityTimeout", "2")
    url = queues.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    return url, f"arn:aws:sqs:us-east-1:123456789012:{name}"


def mapped(name, arn, **settings):
    create(name, {"ZipFile": package(HANDLER)}, Timeout=2)
    made = functions.create_event_source_mapping(FunctionName=name, EventSourceArn=arn, **settings)
    assert "StartingPosition" not in made and made["EventSourceArn"] == arn, made
    enabled = lambda: functions.get_event_source_mapping(UUID=made["UUID"])["State"] == "Enabled"
    until(f"the mapping of {name}", enabled)
    return made["UUID"]


def code_from_a_bucket():
    objects.create_bucket(Bucket="code")
    objects.put_bucket_versioning(Bucket="code", VersioningConfiguration={"Status": "Enabled"})
    put = lambda text: objects.put_object(
        Bucket="code", Key="a folder/app+1.zip", Body=package(f"def handler(event, context):\n    return {text!r}\n")
    )["VersionId"]
    first, second = put("first"), put("second")
    place = {"S3Bucket": "code", "S3Key": "a folder/app+1.zip"}
    create("stored", place)
    assert answer("stored") == "second"
    functions.update_function_code(FunctionName="stored", S3ObjectVersion=first, **place)
    functions.get_waiter("function_updated_v2").wait(FunctionName="stored")
    assert answer("stored") == "first"
    for wrong, says in [
        ({"S3Bucket": "code", "S3Key": "none.zip"}, "NoSuchKey"),
        ({"S3Bucket": "none", "S3Key": "app.zip"}, "NoSuchBucket"),
        ({"S3Bucket": "code"}, "S3Key"),
    ]:
        message = refused("InvalidParameterValueException", functions.update_function_code, FunctionName="stored", **wrong)
        assert says in message, message
    # What can be refused without the code is, before it is looked for.
    nowhere = {"S3Bucket": "none", "S3Key": "app.zip"}
    refused(
        "ResourceConflictException", functions.create_function, FunctionName="stored", Runtime=RUNTIME,
        Handler="app.handler", Role=ROLE, Code=nowhere,
    )
    refused(
        "PreconditionFailedException", functions.update_function_code, FunctionName="stored", RevisionId="stale", **nowhere
    )
    assert answer("stored") == "first"


def layers_from_a_bucket():
    objects.create_bucket(Bucket="layers")
    objects.put_bucket_versioning(Bucket="layers", VersioningConfiguration={"Status": "Enabled"})
    place = {"S3Bucket": "layers", "S3Key": "some knots.zip"}
    contents = [package(f"NAME = {name!r}\n", "python/knots.py") for name in ("first", "second")]
    versions = [objects.put_object(Bucket="layers", Key="some knots.zip", Body=content)["VersionId"] for content in contents]
    publish = lambda **content: functions.publish_layer_version(LayerName="knots", Content=content)
    newest, oldest = publish(**place), publish(S3ObjectVersion=versions[0], **place)
    digest = lambda content: base64.b64encode(hashlib.sha256(content).digest()).decode()
    for published, content in ((newest, contents[1]), (oldest, contents[0])):
        assert published["Content"]["CodeSha256"] == digest(content), published
    create("knotted", {"ZipFile": package("import knots\n\ndef handler(event, context):\n    return knots.NAME\n")},
           Layers=[newest["LayerVersionArn"]])
    assert answer("knotted") == "second"
    for wrong, says in [
        ({"S3Bucket": "layers", "S3Key": "none.zip"}, "NoSuchKey"),
        ({"S3Bucket": "layers"}, "S3Key"),
        ({"ZipFile": contents[0], **place}, "either"),
        ({}, "source"),
    ]:
        message = refused(
            "InvalidParameterValueException", functions.publish_layer_version, LayerName="knots", Content=wrong)
        assert says in message, message
    assert len(functions.list_layer_versions(LayerName="knots")["LayerVersions"]) == 2


def an_unknown_authority_is_not_believed():
    create("patient", {"ZipFile": package(HANDLER)})
    for call, arguments in [
        (functions.update_function_code, {"S3Bucket": "code", "S3Key": "app.zip"}),
        (functions.create_event_source_mapping, {"EventSourceArn": "arn:aws:sqs:us-east-1:123456789012:jobs"}),
    ]:
        message = refused("InvalidParameterValueException", call, FunctionName="patient", **arguments)
        assert "not trusted" in message and "AWS_CA_BUNDLE" in message, message


def messages_reach_a_function():
    url, arn = queue("jobs")
    mapped("worker", arn, FunctionResponseTypes=["ReportBatchItemFailures"])
    queues.send_message(
        QueueUrl=url, MessageBody="one", MessageAttributes={"colour": {"DataType": "String", "StringValue": "blue"}}
    )
    until("the first message", lambda: seen("worker"))
    record = seen("worker")[0]["first"]
    assert record["eventSource"] == "aws:sqs" and record["eventSourceARN"] == arn, record
    assert record["messageAttributes"]["colour"]["stringValue"] == "blue", record
    queues.send_message_batch(QueueUrl=url, Entries=[{"Id": body, "MessageBody": body} for body in ("bad", "good")])
    until("the second try", lambda: bodies("worker").count("bad") == 2)
    until("an empty queue", lambda: left(url) == 0)
    assert bodies("worker").count("good") == 1, bodies("worker")


def a_function_that_fails_leaves_its_messages():
    dead, dead_arn = queue("dead")
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": "2"})
    url, arn = queue("failing", RedrivePolicy=redrive)
    mapped("failing", arn)
    queues.send_message(QueueUrl=url, MessageBody="worse")
    until("the dead letter", lambda: left(dead) == 1)
    assert bodies("failing") == ["worse", "worse"], bodies("failing")


def filters_windows_and_limits():
    url, arn = queue("filtered")
    criteria = {"Filters": [{"Pattern": json.dumps({"body": {"size": [{"numeric": [">", 5]}]}})}]}
    mapped("filtered", arn, FilterCriteria=criteria, MaximumBatchingWindowInSeconds=2, BatchSize=100)
    for size in (1, 7, 9, 11):
        queues.send_message(QueueUrl=url, MessageBody=json.dumps({"size": size}))
    until("the filtered messages", lambda: len(bodies("filtered")) == 3)
    until("an empty queue", lambda: left(url) == 0)
    assert len(seen("filtered")) < 3, "the window gathered nothing"

    url, arn = queue("limited", VisibilityTimeout="30")
    mapped("limited", arn, BatchSize=1, ScalingConfig={"MaximumConcurrency": 2})
    for number in range(10):
        queues.send_message(QueueUrl=url, MessageBody=f"slow {number}")
    until("all slow messages", lambda: len(bodies("limited")) == 10)
    at_once = lambda one: sum(other["began"] <= one["began"] < other["ended"] for other in seen("limited"))
    assert max(map(at_once, seen("limited"))) == 2, [at_once(one) for one in seen("limited")]


def a_fifo_queue_keeps_its_order():
    url, arn = queue("line.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    for number in range(12):
        queues.send_message(QueueUrl=url, MessageBody=str(number), MessageGroupId="one")
    mapped("line", arn, BatchSize=5)
    until("the whole line", lambda: len(bodies("line")) >= 12)
    assert bodies("line") == [str(number) for number in range(12)], bodies("line")


def what_is_wrong_is_named():
    _, arn = queue("short", VisibilityTimeout="1")
    create("patient", {"ZipFile": package(HANDLER)}, Timeout=60)
    wrong = lambda **settings: refused(
        "InvalidParameterValueException", functions.create_event_source_mapping, FunctionName="patient", **settings
    )
    assert "less than Function timeout" in wrong(EventSourceArn=arn)
    missing = wrong(EventSourceArn=arn.replace("short", "missing"))
    assert "SQS Error Code: QueueDoesNotExist" in missing, missing
    functions.update_function_configuration(FunctionName="patient", Timeout=1)
    functions.get_waiter("function_updated_v2").wait(FunctionName="patient")
    assert "StartingPosition" in wrong(EventSourceArn=arn, StartingPosition="LATEST")
    assert "greater than 0" in wrong(EventSourceArn=arn, BatchSize=11)
    assert "ParallelizationFactor" in wrong(EventSourceArn=arn, ParallelizationFactor=2)
    # boto3 itself refuses a concurrency below two.
    refused(
        "ValidationException", functions.create_event_source_mapping, FunctionName="patient", EventSourceArn=arn,
        ScalingConfig={"MaximumConcurrency": 1001},
    )


def a_mapping_is_stopped_and_deleted():
    url, arn = queue("paused")
    mapping = mapped("paused", arn)
    updated = functions.update_event_source_mapping(UUID=mapping, Enabled=False)
    assert updated["State"] in ("Updating", "Disabled"), updated
    until("a disabled mapping", lambda: functions.get_event_source_mapping(UUID=mapping)["State"] == "Disabled")
    # A request for messages that was under way may still bring one.
    time.sleep(1)
    queues.send_message(QueueUrl=url, MessageBody="later")
    time.sleep(1)
    assert bodies("paused") == [], bodies("paused")
    functions.update_event_source_mapping(UUID=mapping, Enabled=True)
    until("the message", lambda: bodies("paused") == ["later"])
    functions.delete_event_source_mapping(UUID=mapping)
    refused("ResourceNotFoundException", functions.get_event_source_mapping, UUID=mapping)


def a_limit_holds_over_all_nodes():
    nodes = [NODE, os.environ["OTHER_NODE"]]
    batches = lambda name: [batch for node in nodes for batch in seen(name, node)]
    widest = {}
    for name, limit in (("free", {}), ("held", {"ScalingConfig": {"MaximumConcurrency": 2}})):
        url, arn = queue(name, VisibilityTimeout="10")
        mapped(name, arn, BatchSize=1, **limit)
        knows = lambda: boto3.client("lambda", endpoint_url=nodes[1]).get_function(FunctionName=name)
        until("the function at the other node", lambda: answers(knows))
        for number in range(24):
            queues.send_message(QueueUrl=url, MessageBody=f"slow {number}")
        until("all messages", lambda: len(batches(name)) >= 24)
        done = batches(name)
        widest[name] = max(sum(other["began"] <= one["began"] < other["ended"] for other in done) for one in done)
    assert widest["free"] > 2, f"the control: {widest}"
    assert widest["held"] == 2, widest


def another_node_goes_on():
    # The server gives some of them to requests of the node that is gone, and again when their time is over.
    url = queues.get_queue_url(QueueName="held")["QueueUrl"]
    for number in range(4):
        queues.send_message(QueueUrl=url, MessageBody=f"later {number}")
    until("what came later", lambda: sum(body.startswith("later") for body in bodies("held")) == 4)


def answers(call):
    try:
        return call()
    except ClientError:
        return None


def run(parts):
    for part in parts:
        began = time.monotonic()
        part()
        print(f"{part.__name__}: {time.monotonic() - began:.1f} s")


RUNTIME = f"python3.{sys.version_info[1]}"
def counted(mapping):
    """What a mapping counts, but for zeros."""
    with urllib.request.urlopen(f"{NODE}/metrics") as reply:
        lines = [line for line in reply.read().decode().splitlines() if f'mapping="{mapping}"' in line]
    counts = {line.split('event="')[1].split('"')[0]: float(line.split()[1]) for line in lines}
    return {event: count for event, count in counts.items() if count}


def messages_are_counted_where_they_are_to_be():
    counting = {"Metrics": ["EventCount"]}
    url, arn = queue("counted", VisibilityTimeout="600")
    mapping = mapped("counter", arn, MetricsConfig=counting, FunctionResponseTypes=["ReportBatchItemFailures"],
                     FilterCriteria={"Filters": [{"Pattern": json.dumps({"body": [{"anything-but": ["unwanted"]}]})}]})
    assert functions.get_event_source_mapping(UUID=mapping)["MetricsConfig"] == counting
    for body in ("good", "unwanted", "bad"):
        queues.send_message(QueueUrl=url, MessageBody=body)
    expected = {"polled": 3, "filtered_out": 1, "invoked": 2, "failed": 1, "deleted": 1}
    until("the counts", lambda: counted(mapping) == expected)
    # Control: a mapping that is to count nothing does not.
    url, arn = queue("uncounted", VisibilityTimeout="600")
    silent = mapped("silent", arn)
    queues.send_message(QueueUrl=url, MessageBody="good")
    until("the message", lambda: seen("silent"))
    assert counted(silent) == {} and counted(mapping) == expected
    functions.delete_event_source_mapping(UUID=mapping)
    until("no counts of a mapping that is gone", lambda: counted(mapping) == {})


PARTS = [
    code_from_a_bucket,
    layers_from_a_bucket,
    messages_reach_a_function,
    a_function_that_fails_leaves_its_messages,
    filters_windows_and_limits,
    a_fifo_queue_keeps_its_order,
    messages_are_counted_where_they_are_to_be,
    what_is_wrong_is_named,
    a_mapping_is_stopped_and_deleted,
]
if __name__ == "__main__":
    run([globals()[name] for name in CHOSEN] or PARTS)
