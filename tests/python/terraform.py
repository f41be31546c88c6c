"""What Terraform's provider for AWS does with functions, call by call, and what it takes for granted of the answers.

usage: terraform.py RUNTIME HANDLER ZIP
"""
import sys

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
    assert signing["CodeSigningConfigArn"] == "" and signing["FunctionName"] == NAME, signing
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
        Environment={"Variables": {"COLOUR": "1"}}, Timeout=3, MemorySize=128)
    wait(client, "State")
    found, newest = refresh(client)
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

    client.update_alias(FunctionName=NAME, Name="live", FunctionVersion="1")
    assert client.get_alias(FunctionName=NAME, Name="live")["FunctionVersion"] == "1"
    client.delete_alias(FunctionName=NAME, Name="live")
    expect_error(GONE, 404, client.get_alias, FunctionName=NAME, Name="live")


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
