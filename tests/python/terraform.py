"""What Terraform's provider for AWS does with functions, call by call, and what it takes for granted of the answers.

usage: terraform.py RUNTIME HANDLER ZIP
"""
import json
import sys
import urllib.request

import wire
from wire import ROLE, expect_error, read

NAME = "managed"
GONE = "ResourceNotFoundException"


def wait(client, path):
    """The provider polls GetFunction and fails on any status that it does not know."""
    known = {"State": {"Pending", "Active"}, "LastUpdateStatus": {"InProgress", "Successful"}}
    while True:
        shown = client.get_function(FunctionName=NAME)["Configuration"]
        assert shown[path] in known[path], shown
        if shown[path] in ("Active", "Successful"):
            return


def refresh(client):
    """A read of the resource; any error but 404 of GetFunction ends the run, so that none may come."""
    found = client.get_function(FunctionName=NAME)
    assert found["Code"]["Location"] and found["Code"]["RepositoryType"] == "S3", found["Code"]
    versions = []
    for page in client.get_paginator("list_versions_by_function").paginate(
            FunctionName=NAME, PaginationConfig={"PageSize": 1}):
        versions += page["Versions"]
    signing = client.get_function_code_signing_config(FunctionName=NAME)
    # The provider takes an absent ARN for none.
    assert not signing.get("CodeSigningConfigArn"), signing
    assert versions[0]["Version"] == "$LATEST", versions
    # The last item of the last page is taken for the newest.
    newest = versions[-1]
    assert newest["FunctionArn"].endswith(f":{newest['Version']}"), newest
    return found, newest["Version"]


def function(client, case):
    expect_error(GONE, 404, client.get_function, FunctionName=NAME)
    client.create_function(
        FunctionName=NAME, Runtime=case["runtime"], Handler=case["handler"], Role=ROLE, Publish=True,
        Code={"ZipFile": read(case["zip"])}, Tags={"made-by": "terraform"}, TracingConfig={"Mode": "PassThrough"},
        Environment={"Variables": {"COLOUR": "1"}}, Timeout=3, MemorySize=128,
        LoggingConfig={"LogFormat": "JSON"})
    wait(client, "State")
    found, newest = refresh(client)
    levels = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
    logging = {"LogFormat": "JSON", "LogGroup": f"/aws/lambda/{NAME}", **levels}
    assert found["Configuration"]["LoggingConfig"] == logging, found["Configuration"]
    assert found["Tags"] == {"made-by": "terraform"} and "Concurrency" not in found and newest == "1", (found, newest)
    again = expect_error("ResourceConflictException", 409, client.create_function, FunctionName=NAME,
                         Runtime=case["runtime"], Handler=case["handler"], Role=ROLE,
                         Code={"ZipFile": read(case["zip"])})
    # The provider tells its user to import what exists by this text.
    assert again["Error"]["Message"].startswith("Function already exist"), again

    client.update_function_configuration(FunctionName=NAME, Timeout=9)
    wait(client, "LastUpdateStatus")
    client.update_function_code(FunctionName=NAME, ZipFile=read(case["zip"]))
    wait(client, "LastUpdateStatus")
    client.put_function_concurrency(FunctionName=NAME, ReservedConcurrentExecutions=7)
    assert publish(client) == "2"
    found, newest = refresh(client)
    assert found["Concurrency"] == {"ReservedConcurrentExecutions": 7} and newest == "2", (found, newest)
    assert found["Configuration"]["Timeout"] == 9, found["Configuration"]
    client.delete_function_concurrency(FunctionName=NAME)
    assert "Concurrency" not in refresh(client)[0]
    arn = found["Configuration"]["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"b": "2"})
    client.untag_resource(Resource=arn, TagKeys=["made-by"])
    assert refresh(client)[0]["Tags"] == {"b": "2"}
    missing = "arn:aws:lambda:us-east-1:123456789012:code-signing-config:csc-0123456789abcdef0"
    expect_error("CodeSigningConfigNotFoundException", 404, client.put_function_code_signing_config,
                 FunctionName=NAME, CodeSigningConfigArn=missing)
    client.delete_function_code_signing_config(FunctionName=NAME)


def publish(client):
    """Tried again as long as the refusal says that something is in progress, and on nothing else."""
    while True:
        try:
            return client.publish_version(FunctionName=NAME)["Version"]
        except client.exceptions.ResourceConflictException as conflict:
            assert "in progress" in conflict.response["Error"]["Message"], conflict


def others(client, _):
    """Each of the other resources: made, read, changed, read, taken away, and then not found."""
    client.create_alias(FunctionName=NAME, Name="live", FunctionVersion="2")
    of_alias = {"FunctionName": NAME, "Qualifier": "live"}
    url = client.create_function_url_config(**of_alias, AuthType="NONE")["FunctionUrl"]
    assert url.split("//")[1].split(".lambda-url.")[0].isalnum(), "the provider takes the identifier from the address"
    client.update_function_url_config(**of_alias, Cors={"AllowOrigins": ["*"]}, InvokeMode="BUFFERED")
    assert client.get_function_url_config(**of_alias)["Cors"] == {"AllowOrigins": ["*"]}
    # A configuration that is taken out comes as an empty one.
    assert "Cors" not in client.update_function_url_config(**of_alias, Cors={})
    client.delete_function_url_config(**of_alias)
    expect_error(GONE, 404, client.get_function_url_config, **of_alias)

    client.put_provisioned_concurrency_config(**of_alias, ProvisionedConcurrentExecutions=1)
    while (status := client.get_provisioned_concurrency_config(**of_alias)["Status"]) != "READY":
        assert status == "IN_PROGRESS", status
    client.delete_provisioned_concurrency_config(**of_alias)
    expect_error("ProvisionedConcurrencyConfigNotFoundException", 404, client.get_provisioned_concurrency_config,
                 **of_alias)

    client.put_function_event_invoke_config(**of_alias, MaximumRetryAttempts=0)
    assert client.get_function_event_invoke_config(**of_alias)["MaximumRetryAttempts"] == 0
    client.delete_function_event_invoke_config(**of_alias)
    expect_error(GONE, 404, client.get_function_event_invoke_config, **of_alias)

    client.put_function_recursion_config(FunctionName=NAME, RecursiveLoop="Allow")
    assert client.get_function_recursion_config(FunctionName=NAME)["RecursiveLoop"] == "Allow"
    # Taking the resource away puts the default back.
    client.put_function_recursion_config(FunctionName=NAME, RecursiveLoop="Terminate")
    client.put_runtime_management_config(FunctionName=NAME, UpdateRuntimeOn="FunctionUpdate")
    assert client.get_runtime_management_config(FunctionName=NAME)["UpdateRuntimeOn"] == "FunctionUpdate"
    client.put_runtime_management_config(FunctionName=NAME, UpdateRuntimeOn="Auto")

    permissions(client, of_alias)
    mapping(client)
    client.update_alias(FunctionName=NAME, Name="live", FunctionVersion="1")
    assert client.get_alias(FunctionName=NAME, Name="live")["FunctionVersion"] == "1"
    client.delete_alias(FunctionName=NAME, Name="live")
    expect_error(GONE, 404, client.get_alias, FunctionName=NAME, Name="live")


def permissions(client, of_alias):
    """The provider reads a statement back from the policy: every value must be a text, and the qualifier in the ARN."""
    for sid, settings in {
        "url": {"Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"},
        "via": {"Action": "lambda:InvokeFunction", "Principal": "*", "InvokedViaFunctionUrl": True},
        "rule": {"Action": "lambda:InvokeFunction", "Principal": "events.amazonaws.com",
                 "SourceArn": "arn:aws:events:us-east-1:123456789012:rule/r", "SourceAccount": "123456789012"},
    }.items():
        client.add_permission(**of_alias, StatementId=sid, **settings)
        statements = json.loads(client.get_policy(**of_alias)["Policy"])["Statement"]
        found = next(statement for statement in statements if statement["Sid"] == sid)
        assert found["Action"] == settings["Action"] and found["Resource"].endswith(f":{NAME}:live"), found
        values = [value for keys in found["Condition"].values() for value in keys.values()]
        assert values and all(isinstance(value, str) for value in values), found
        assert ("true" in values) == (sid == "via"), found
    for sid in ("url", "via", "rule"):
        client.remove_permission(**of_alias, StatementId=sid)
    expect_error(GONE, 404, client.get_policy, **of_alias)


def mapping(client):
    """Made with tags, waited for by its state, read with its tags by its ARN, changed, and waited for until it is gone."""
    stream = urllib.request.Request(f"{client.meta.endpoint_url}/v1/streams", json.dumps({"name": "orders"}).encode(),
                                    {"content-type": "application/json"})
    urllib.request.urlopen(stream, timeout=30).close()
    uuid = client.create_event_source_mapping(
        FunctionName=NAME, EventSourceArn="arn:aws:kinesis:us-east-1:123456789012:stream/orders", Enabled=True,
        StartingPosition="LATEST", Tags={"made-by": "terraform"})["UUID"]

    def settled(pending, wanted):
        while (found := client.get_event_source_mapping(UUID=uuid))["State"] != wanted:
            assert found["State"] in pending, found
        return found

    found = settled(("Creating", "Enabling"), "Enabled")
    defaults = {"BatchSize": 100, "MaximumRetryAttempts": -1, "MaximumRecordAgeInSeconds": -1, "ParallelizationFactor": 1,
                "TumblingWindowInSeconds": 0, "FunctionResponseTypes": [], "StartingPosition": "LATEST"}
    assert {name: found[name] for name in defaults} == defaults and "FilterCriteria" not in found, found
    arn = found["EventSourceMappingArn"]
    assert client.list_tags(Resource=arn)["Tags"] == {"made-by": "terraform"}
    client.update_event_source_mapping(UUID=uuid, Enabled=False, BatchSize=7, MaximumRetryAttempts=0,
                                       FilterCriteria={"Filters": [{"Pattern": '{"data": {"n": [1]}}'}]})
    found = settled(("Updating", "Disabling"), "Disabled")
    assert (found["BatchSize"], found["MaximumRetryAttempts"]) == (7, 0) and "FilterCriteria" in found, found
    client.untag_resource(Resource=arn, TagKeys=["made-by"])
    client.tag_resource(Resource=arn, Tags={"b": "2"})
    assert client.list_tags(Resource=arn)["Tags"] == {"b": "2"}
    # Without filters the provider sends an empty object.
    client.update_event_source_mapping(UUID=uuid, FilterCriteria={}, Enabled=True)
    assert "FilterCriteria" not in settled(("Updating", "Enabling"), "Enabled")
    client.delete_event_source_mapping(UUID=uuid)
    expect_error(GONE, 404, client.get_event_source_mapping, UUID=uuid)
    expect_error(GONE, 404, client.list_tags, Resource=arn)


def destroy(client, _):
    client.delete_function(FunctionName=NAME)
    # Until this is a 404 the provider thinks that the deletion goes on.
    expect_error(GONE, 404, client.get_function, FunctionName=NAME)
    expect_error(GONE, 404, client.delete_function, FunctionName=NAME)
    expect_error(GONE, 404, client.get_function_code_signing_config, FunctionName=NAME)


def main():
    case = dict(zip(("runtime", "handler", "zip"), sys.argv[1:]))
    client = wire.client()
    for step in (function, others, destroy):
        step(client, case)
        print(f"{step.__name__} ok")
    wire.finish(expected_min=55)


main()
