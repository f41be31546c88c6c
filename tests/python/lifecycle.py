"""The whole life of a function through boto3.

usage: lifecycle.py JSON
  name, runtime, handler  of the function
  zip, zip2               paths of two packages; the second replaces the first
  event                   a JSON value to invoke with
  expect                  a text that the answer must contain
  fail                    an event that makes the function fail, or null
  fail_expect             a text that the error's payload must contain
"""
import base64
import json
import sys

import wire
from wire import ROLE, expect_error, read


def create(client, case):
    name = case["name"]
    expect_error("ResourceNotFoundException", 404, client.get_function, FunctionName=name)
    made = client.create_function(
        FunctionName=name, Runtime=case["runtime"], Handler=case["handler"], Role=ROLE, Timeout=20, MemorySize=256,
        Description="first", Environment={"Variables": {"COLOUR": "blue"}}, Tags={"team": "knots"},
        Code={"ZipFile": read(case["zip"])},
    )
    assert made["Version"] == "$LATEST" and made["State"] in ("Pending", "Active"), made
    assert made["FunctionArn"] == f"arn:aws:lambda:us-east-1:123456789012:function:{name}", made["FunctionArn"]
    client.get_waiter("function_exists").wait(FunctionName=name)
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    got = client.get_function(FunctionName=name)
    assert got["Tags"] == {"team": "knots"}, got.get("Tags")
    configuration = got["Configuration"]
    assert configuration["State"] == "Active" and configuration["LastUpdateStatus"] == "Successful", configuration
    assert configuration["Environment"]["Variables"] == {"COLOUR": "blue"}
    assert configuration["MemorySize"] == 256 and configuration["Timeout"] == 20
    expect_error(
        "ResourceConflictException", 409, client.create_function, FunctionName=name, Runtime=case["runtime"],
        Handler=case["handler"], Role=ROLE, Code={"ZipFile": read(case["zip"])},
    )


def invoke(client, case):
    name = case["name"]
    payload = json.dumps(case["event"]).encode()
    answer = client.invoke(FunctionName=name, Payload=payload, LogType="Tail")
    body = answer["Payload"].read().decode()
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer, (answer, body)
    assert case["expect"] in body, body
    assert answer["ExecutedVersion"] == "$LATEST", answer["ExecutedVersion"]
    request_id = answer["ResponseMetadata"]["RequestId"]
    log = base64.b64decode(answer["LogResult"]).decode()
    for line in (f"START RequestId: {request_id} Version: $LATEST", f"END RequestId: {request_id}",
                 f"REPORT RequestId: {request_id}\tDuration: "):
        assert line in log, (line, log)
    plain = client.invoke(FunctionName=name, Payload=payload)
    assert "LogResult" not in plain
    dry = client.invoke(FunctionName=name, Payload=payload, InvocationType="DryRun")
    assert dry["StatusCode"] == 204, dry["StatusCode"]
    expect_error("InvalidRequestContentException", 400, client.invoke, FunctionName=name, Payload=b"{not json")
    if case.get("fail") is not None:
        failed = client.invoke(FunctionName=name, Payload=json.dumps(case["fail"]).encode(), LogType="Tail")
        error = json.loads(failed["Payload"].read())
        assert failed["StatusCode"] == 200 and failed["FunctionError"] == "Unhandled", failed
        assert "errorType" in error and "errorMessage" in error, error
        assert case["fail_expect"] in json.dumps(error), error
        # The function lives on.
        again = client.invoke(FunctionName=name, Payload=payload)
        assert "FunctionError" not in again, again["Payload"].read()


def update_and_publish(client, case):
    name = case["name"]
    first = client.publish_version(FunctionName=name, Description="one")
    assert first["Version"] == "1" and first["Description"] == "one", first
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1")
    same = client.publish_version(FunctionName=name)
    assert same["Version"] == "1", "publishing what has not changed gives the version there is"

    before = client.get_function_configuration(FunctionName=name)
    updated = client.update_function_code(FunctionName=name, ZipFile=read(case["zip2"]))
    assert updated["CodeSha256"] != before["CodeSha256"] and updated["RevisionId"] != before["RevisionId"]
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    expect_error(
        "PreconditionFailedException", 412, client.update_function_code, FunctionName=name,
        ZipFile=read(case["zip2"]), RevisionId=before["RevisionId"],
    )
    changed = client.update_function_configuration(
        FunctionName=name, Description="second", Environment={"Variables": {"COLOUR": "red"}}, Timeout=25,
    )
    assert changed["Description"] == "second" and changed["Timeout"] == 25
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    second = client.publish_version(FunctionName=name, CodeSha256=updated["CodeSha256"])
    assert second["Version"] == "2", second["Version"]
    expect_error(
        "InvalidParameterValueException", 400, client.publish_version, FunctionName=name,
        CodeSha256=base64.b64encode(bytes(32)).decode(),
    )
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="2")
    one = client.get_function_configuration(FunctionName=name, Qualifier="1")
    assert one["Description"] == "one" and one["Environment"]["Variables"] == {"COLOUR": "blue"}, one
    answer = client.invoke(FunctionName=f"{name}:1", Payload=json.dumps(case["event"]).encode())
    assert answer["ExecutedVersion"] == "1" and "FunctionError" not in answer

    pages = client.get_paginator("list_versions_by_function").paginate(
        FunctionName=name, PaginationConfig={"PageSize": 1})
    versions = [version["Version"] for page in pages for version in page["Versions"]]
    assert versions == ["$LATEST", "1", "2"], versions
    names = [f["FunctionName"] for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]]
    assert name in names, names


def aliases(client, case):
    name = case["name"]
    made = client.create_alias(
        FunctionName=name, Name="live", FunctionVersion="1", Description="what users see",
        RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}},
    )
    assert made["AliasArn"].endswith(f":function:{name}:live"), made
    payload = json.dumps(case["event"]).encode()
    ran = {client.invoke(FunctionName=name, Qualifier="live", Payload=payload)["ExecutedVersion"] for _ in range(64)}
    assert ran == {"1", "2"}, f"half of the invocations each, 64 went to {ran}"
    expect_error("ResourceConflictException", 409, client.create_alias, FunctionName=name, Name="live",
                 FunctionVersion="1")
    updated = client.update_alias(
        FunctionName=name, Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}})
    assert updated["FunctionVersion"] == "2" and updated["RevisionId"] != made["RevisionId"], updated
    expect_error("PreconditionFailedException", 412, client.update_alias, FunctionName=name, Name="live",
                 Description="stale", RevisionId=made["RevisionId"])
    arn = updated["AliasArn"]
    assert client.invoke(FunctionName=arn, Payload=payload)["ExecutedVersion"] == "2"
    got = client.get_alias(FunctionName=name, Name="live")
    assert got["FunctionVersion"] == "2"
    listed = client.list_aliases(FunctionName=name, FunctionVersion="2")["Aliases"]
    assert [alias["Name"] for alias in listed] == ["live"]
    expect_error("ResourceConflictException", 409, client.delete_function, FunctionName=name, Qualifier="2")
    client.delete_alias(FunctionName=name, Name="live")
    expect_error("ResourceNotFoundException", 404, client.get_alias, FunctionName=name, Name="live")


def tags(client, case):
    arn = client.get_function_configuration(FunctionName=case["name"])["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"tier": "gold", "team": "ropes"})
    assert client.list_tags(Resource=arn)["Tags"] == {"tier": "gold", "team": "ropes"}
    client.untag_resource(Resource=arn, TagKeys=["tier"])
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "ropes"}


def concurrency(client, case):
    name = case["name"]
    payload = json.dumps(case["event"]).encode()
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=name)
    put = client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert put["ReservedConcurrentExecutions"] == 0
    refused = expect_error("TooManyRequestsException", 429, client.invoke, FunctionName=name, Payload=payload)
    assert refused["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded", refused
    assert client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 0
    assert client.get_function(FunctionName=name)["Concurrency"]["ReservedConcurrentExecutions"] == 0
    client.delete_function_concurrency(FunctionName=name)
    assert "FunctionError" not in client.invoke(FunctionName=name, Payload=payload)
    settings = client.get_account_settings()
    assert settings["AccountUsage"]["FunctionCount"] >= 1, settings


def delete(client, case):
    name = case["name"]
    client.delete_function(FunctionName=name, Qualifier="1")
    expect_error("ResourceNotFoundException", 404, client.get_function, FunctionName=name, Qualifier="1")
    client.delete_function(FunctionName=name)
    expect_error("ResourceNotFoundException", 404, client.get_function, FunctionName=name)
    expect_error("ResourceNotFoundException", 404, client.invoke, FunctionName=name, Payload=b"{}")
    expect_error("ResourceNotFoundException", 404, client.delete_function, FunctionName=name)


def main():
    case = json.loads(sys.argv[1])
    client = wire.client()
    for step in (create, invoke, update_and_publish, aliases, tags, concurrency, delete):
        step(client, case)
        print(f"{case['runtime']} {case['name']}: {step.__name__} ok")
    wire.finish(expected_min=100)


main()
