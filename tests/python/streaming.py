"""Streamed answers through boto3.

usage: streaming.py JSON
  name, runtime, handler, zip   of the function
  environment                   its variables
  cases                         a list of
    event         a JSON value to invoke with
    contains      a text that the whole answer must contain
    bytes         how many bytes it must have at least
    error         the code of the function's error, or null
    gap           seconds that must lie between the first piece and the end, or 0
"""
import base64
import json
import sys
import time

from botocore.exceptions import ClientError

import wire

ROLE = "arn:aws:iam::123456789012:role/any"


def create(client, case):
    with open(case["zip"], "rb") as file:
        code = file.read()
    client.create_function(
        FunctionName=case["name"], Runtime=case["runtime"], Handler=case["handler"], Role=ROLE, Timeout=30,
        MemorySize=256, Environment={"Variables": case["environment"]}, Code={"ZipFile": code},
    )
    client.get_waiter("function_active_v2").wait(FunctionName=case["name"])


def stream(client, name, event, **arguments):
    answer = client.invoke_with_response_stream(FunctionName=name, Payload=json.dumps(event).encode(), **arguments)
    assert answer["StatusCode"] == 200, answer
    assert answer["ExecutedVersion"] == "$LATEST", answer
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream", answer
    pieces, first, complete = [], None, None
    for message in answer["EventStream"]:
        assert complete is None, f"{message} after the end"
        if "PayloadChunk" in message:
            first = first or time.monotonic()
            pieces.append(message["PayloadChunk"]["Payload"])
        else:
            complete = message["InvokeComplete"]
    assert complete is not None, "the answer has no end"
    end = time.monotonic()
    return answer, b"".join(pieces), complete, end - (first or end)


def check(client, name, case):
    answer, body, complete, gap = stream(client, name, case["event"], LogType="Tail")
    assert case["contains"].encode() in body, (case, body[:200])
    assert len(body) >= case["bytes"], (case, len(body))
    assert gap >= case["gap"], f"{case}: the first piece came {gap} s before the end"
    assert complete.get("ErrorCode") == case["error"], (case, complete)
    if case["error"]:
        assert "errorMessage" in json.loads(complete["ErrorDetails"]), complete
    request_id = answer["ResponseMetadata"]["RequestId"]
    log = base64.b64decode(complete["LogResult"]).decode()
    for line in (f"END RequestId: {request_id}", f"REPORT RequestId: {request_id}\tDuration: "):
        assert line in log, (line, log)


def refusals(client, name):
    dry = client.invoke_with_response_stream(FunctionName=name, InvocationType="DryRun")
    assert dry["StatusCode"] == 204 and list(dry["EventStream"]) == [], dry
    for arguments, code, status in (
        ({"FunctionName": "nothing-of-that-name"}, "ResourceNotFoundException", 404),
        ({"FunctionName": name, "Payload": b"{"}, "InvalidRequestContentException", 400),
    ):
        try:
            client.invoke_with_response_stream(**arguments)
        except ClientError as error:
            got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert got == (code, status), got
        else:
            raise AssertionError(f"{arguments} succeeded")


def main():
    case = json.loads(sys.argv[1])
    client = wire.client()
    create(client, case)
    for one in case["cases"]:
        check(client, case["name"], one)
    # Wanted in one piece, the answer comes in one piece.
    good = next(one for one in case["cases"] if not one["error"])
    whole = client.invoke(FunctionName=case["name"], Payload=json.dumps(good["event"]).encode())
    body = whole["Payload"].read()
    assert "FunctionError" not in whole and good["contains"].encode() in body, body[:200]
    refusals(client, case["name"])
    wire.finish(expected_min=5)


main()
