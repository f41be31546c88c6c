"""Every operation that clients of a function's whole life need, every waiter and every paginator, through boto3.

usage: tier_one.py RUNTIME HANDLER ZIP
"""
import json
import sys
import urllib.request

import wire
from wire import ROLE, expect_error, read

# What clients cannot do without; `lifecycle.py` has the first half of it in depth.
TIER_ONE = """
CreateFunction GetFunction GetFunctionConfiguration ListFunctions UpdateFunctionCode UpdateFunctionConfiguration
DeleteFunction Invoke InvokeAsync InvokeWithResponseStream PublishVersion ListVersionsByFunction CreateAlias GetAlias ListAliases UpdateAlias
DeleteAlias ListTags TagResource UntagResource PutFunctionConcurrency GetFunctionConcurrency
DeleteFunctionConcurrency PutProvisionedConcurrencyConfig GetProvisionedConcurrencyConfig
ListProvisionedConcurrencyConfigs DeleteProvisionedConcurrencyConfig CreateFunctionUrlConfig GetFunctionUrlConfig
UpdateFunctionUrlConfig DeleteFunctionUrlConfig ListFunctionUrlConfigs PutFunctionEventInvokeConfig
UpdateFunctionEventInvokeConfig GetFunctionEventInvokeConfig DeleteFunctionEventInvokeConfig
ListFunctionEventInvokeConfigs CreateEventSourceMapping GetEventSourceMapping UpdateEventSourceMapping
DeleteEventSourceMapping ListEventSourceMappings GetFunctionCodeSigningConfig GetAccountSettings
AddPermission GetPolicy RemovePermission GetFunctionRecursionConfig PutFunctionRecursionConfig
GetRuntimeManagementConfig PutRuntimeManagementConfig PublishLayerVersion GetLayerVersion GetLayerVersionByArn
ListLayers ListLayerVersions DeleteLayerVersion AddLayerVersionPermission GetLayerVersionPolicy
RemoveLayerVersionPermission
""".split()
# Lists of what this script makes nothing of; their first page must be there all the same.
OTHER_PAGINATORS = {
    "list_capacity_providers": {}, "list_code_signing_configs": {},
}


def pages(client, method, key, size, **arguments):
    """All items of a list, in pages of one each; there must be as many pages as items."""
    found = []
    for number, page in enumerate(client.get_paginator(method).paginate(PaginationConfig={"PageSize": 1}, **arguments)):
        assert len(page[key]) <= 1, (method, page)
        found += page[key]
    assert len(found) == size and number + 1 >= size, (method, found)
    return found


def functions(client, case):
    for name in ("one", "two"):
        client.create_function(
            FunctionName=name, Runtime=case["runtime"], Handler=case["handler"], Role=ROLE, Timeout=20,
            Code={"ZipFile": read(case["zip"])}, Tags={"team": "knots"})
        for waiter in ("function_exists", "function_active", "function_active_v2"):
            client.get_waiter(waiter).wait(FunctionName=name)
    client.update_function_configuration(FunctionName="one", Description="changed")
    for waiter in ("function_updated", "function_updated_v2"):
        client.get_waiter(waiter).wait(FunctionName="one")
    client.update_function_code(FunctionName="one", ZipFile=read(case["zip"]))
    client.get_waiter("function_updated_v2").wait(FunctionName="one")
    for version, description in (("1", "first"), ("2", "second")):
        client.update_function_configuration(FunctionName="one", Description=description)
        client.get_waiter("function_updated_v2").wait(FunctionName="one")
        assert client.publish_version(FunctionName="one")["Version"] == version
        client.get_waiter("published_version_active").wait(FunctionName="one", Qualifier=version)
    for name, version in (("blue", "1"), ("green", "2")):
        client.create_alias(FunctionName="one", Name=name, FunctionVersion=version)
    client.update_alias(FunctionName="one", Name="blue", Description="the old one")
    assert client.get_alias(FunctionName="one", Name="blue")["Description"] == "the old one"
    pages(client, "list_functions", "Functions", 2)
    pages(client, "list_versions_by_function", "Versions", 3, FunctionName="one")
    pages(client, "list_aliases", "Aliases", 2, FunctionName="one")
    assert client.get_function_configuration(FunctionName="one", Qualifier="blue")["Version"] == "1"
    client.invoke_async(FunctionName="one", InvokeArgs=b"{}")
    assert client.invoke(FunctionName="one", Payload=b"{}")["StatusCode"] == 200
    streamed = client.invoke_with_response_stream(FunctionName="one", Payload=b'{"n": 1}')
    assert streamed["StatusCode"] == 200 and streamed["ExecutedVersion"] == "$LATEST", streamed
    events = list(streamed["EventStream"])
    pieces = b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event)
    assert json.loads(pieces)["echo"] == {"n": 1}, events
    assert list(events[-1]) == ["InvokeComplete"] and "ErrorCode" not in events[-1]["InvokeComplete"], events


def layers(client, case):
    made = [
        client.publish_layer_version(LayerName=name, Content={"ZipFile": read(case["zip"])}, Description=name)
        for name in ("low", "high", "high")
    ]
    assert [layer["Version"] for layer in made] == [1, 1, 2], made
    arn = made[2]["LayerVersionArn"]
    assert client.get_layer_version(LayerName="high", VersionNumber=2)["Description"] == "high"
    assert client.get_layer_version_by_arn(Arn=arn)["LayerVersionArn"] == arn
    pages(client, "list_layers", "Layers", 2)
    pages(client, "list_layer_versions", "LayerVersions", 2, LayerName="high")
    added = client.add_layer_version_permission(
        LayerName="high", VersionNumber=2, StatementId="all", Action="lambda:GetLayerVersion", Principal="*")
    policy = client.get_layer_version_policy(LayerName="high", VersionNumber=2)
    assert json.loads(policy["Policy"])["Statement"] == [json.loads(added["Statement"])], policy
    client.remove_layer_version_permission(LayerName="high", VersionNumber=2, StatementId="all")
    expect_error("ResourceNotFoundException", 404, client.get_layer_version_policy, LayerName="high", VersionNumber=2)
    client.update_function_configuration(FunctionName="two", Layers=[arn])
    client.get_waiter("function_updated_v2").wait(FunctionName="two")
    assert client.get_function_configuration(FunctionName="two")["Layers"][0]["Arn"] == arn
    for layer in made:
        name, version = layer["LayerVersionArn"].split(":")[-2:]
        client.delete_layer_version(LayerName=name, VersionNumber=int(version))
    expect_error("ResourceNotFoundException", 404, client.get_layer_version, LayerName="high", VersionNumber=2)


def tags(client, _):
    arn = client.get_function(FunctionName="two")["Configuration"]["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"more": "yes"})
    client.untag_resource(Resource=arn, TagKeys=["team"])
    assert client.list_tags(Resource=arn)["Tags"] == {"more": "yes"}


def concurrency(client, _):
    client.put_function_concurrency(FunctionName="one", ReservedConcurrentExecutions=5)
    assert client.get_function_concurrency(FunctionName="one")["ReservedConcurrentExecutions"] == 5
    refused = {
        "$LATEST": 1, "blue": 6,
    }
    for qualifier, wanted in refused.items():
        expect_error("InvalidParameterValueException", 400, client.put_provisioned_concurrency_config,
                     FunctionName="one", Qualifier=qualifier, ProvisionedConcurrentExecutions=wanted)
    for qualifier, wanted in (("blue", 2), ("2", 1)):
        put = client.put_provisioned_concurrency_config(
            FunctionName="one", Qualifier=qualifier, ProvisionedConcurrentExecutions=wanted)
        assert put["RequestedProvisionedConcurrentExecutions"] == wanted, put
    expect_error("ResourceConflictException", 409, client.put_provisioned_concurrency_config,
                 FunctionName="one", Qualifier="1", ProvisionedConcurrentExecutions=1)
    while (got := client.get_provisioned_concurrency_config(FunctionName="one", Qualifier="blue"))["Status"] != "READY":
        assert got["Status"] == "IN_PROGRESS", got
    assert got["AvailableProvisionedConcurrentExecutions"] == got["AllocatedProvisionedConcurrentExecutions"] == 2, got
    answer = client.invoke(FunctionName="one", Qualifier="blue", Payload=b'{"do": "type"}')
    assert json.loads(answer["Payload"].read()) == {"type": "provisioned-concurrency"}
    pages(client, "list_provisioned_concurrency_configs", "ProvisionedConcurrencyConfigs", 2, FunctionName="one")
    for qualifier in ("blue", "2"):
        client.delete_provisioned_concurrency_config(FunctionName="one", Qualifier=qualifier)
    expect_error("ProvisionedConcurrencyConfigNotFoundException", 404, client.get_provisioned_concurrency_config,
                 FunctionName="one", Qualifier="blue")
    client.delete_function_concurrency(FunctionName="one")
    on_demand = client.invoke(FunctionName="one", Qualifier="2", Payload=b'{"do": "type"}')
    assert on_demand["StatusCode"] == 200, on_demand


def urls(client, _):
    expect_error("ResourceNotFoundException", 404, client.get_function_url_config, FunctionName="one")
    made = client.create_function_url_config(FunctionName="one", AuthType="NONE")
    client.create_function_url_config(
        FunctionName="one", Qualifier="green", AuthType="AWS_IAM", InvokeMode="RESPONSE_STREAM",
        Cors={"AllowOrigins": ["*"], "AllowMethods": ["GET"], "MaxAge": 60, "AllowCredentials": True})
    expect_error("ResourceConflictException", 409, client.create_function_url_config, FunctionName="one",
                 AuthType="NONE")
    updated = client.update_function_url_config(FunctionName="one", Cors={"AllowOrigins": ["https://a.example"]})
    got = client.get_function_url_config(FunctionName="one")
    assert got["FunctionUrl"] == made["FunctionUrl"] and got["Cors"] == updated["Cors"], got
    pages(client, "list_function_url_configs", "FunctionUrlConfigs", 2, FunctionName="one")
    permission = client.add_permission(
        FunctionName="one", StatementId="all", Action="lambda:InvokeFunctionUrl", Principal="*",
        FunctionUrlAuthType="NONE")
    client.add_permission(
        FunctionName="one", StatementId="via", Action="lambda:InvokeFunction", Principal="*", InvokedViaFunctionUrl=True)
    assert json.loads(permission["Statement"])["Sid"] == "all", permission
    assert json.loads(client.get_policy(FunctionName="one")["Policy"])["Statement"][0]["Sid"] == "all"
    # The resolver of the machine may not know names below `localhost`: the host is told beside the address.
    host = made["FunctionUrl"].split("/")[2]
    request = urllib.request.Request(f"{client.meta.endpoint_url}/a?b=c", headers={"host": host})
    with urllib.request.urlopen(request, timeout=30) as answer:
        event = json.load(answer)["echo"]
    assert event["rawPath"] == "/a" and event["queryStringParameters"] == {"b": "c"}, event
    for sid in ("all", "via"):
        client.remove_permission(FunctionName="one", StatementId=sid)
    client.delete_function_url_config(FunctionName="one")
    client.delete_function_url_config(FunctionName="one", Qualifier="green")


def events(client, _):
    for qualifier in ("$LATEST", "blue"):
        client.put_function_event_invoke_config(FunctionName="one", Qualifier=qualifier, MaximumRetryAttempts=1)
    client.update_function_event_invoke_config(FunctionName="one", Qualifier="blue", MaximumEventAgeInSeconds=60)
    got = client.get_function_event_invoke_config(FunctionName="one", Qualifier="blue")
    assert (got["MaximumRetryAttempts"], got["MaximumEventAgeInSeconds"]) == (1, 60), got
    pages(client, "list_function_event_invoke_configs", "FunctionEventInvokeConfigs", 2, FunctionName="one")
    client.delete_function_event_invoke_config(FunctionName="one", Qualifier="blue")
    source = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
    made = [
        client.create_event_source_mapping(
            FunctionName=name, EventSourceArn=source, StartingPosition="TRIM_HORIZON", Enabled=False,
            Tags={"of": name})
        for name in ("one", "two")
    ]
    tags_of_mapping(client, made[0])
    pages(client, "list_event_source_mappings", "EventSourceMappings", 2)
    for mapping in made:
        uuid = mapping["UUID"]
        while (got := client.get_event_source_mapping(UUID=uuid))["State"] not in ("Disabled", "Enabled"):
            assert got["State"] == "Creating", got
        assert client.update_event_source_mapping(UUID=uuid, BatchSize=7)["BatchSize"] == 7
        client.delete_event_source_mapping(UUID=uuid)


def tags_of_mapping(client, made):
    arn = made["EventSourceMappingArn"]
    assert arn == f"arn:aws:lambda:us-east-1:123456789012:event-source-mapping:{made['UUID']}", arn
    shown = lambda: client.list_tags(Resource=arn)["Tags"]
    assert shown() == {"of": "one"}, shown()
    client.tag_resource(Resource=arn, Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=arn, TagKeys=["of", "a", "nobody"])
    assert shown() == {"b": "2"}, shown()
    expect_error("InvalidParameterValueException", 400, client.tag_resource, Resource=arn, Tags={"aws:x": "1"})
    expect_error("InvalidParameterValueException", 400, client.tag_resource, Resource=arn,
                 Tags={str(n): "" for n in range(50)})
    assert shown() == {"b": "2"}, shown()
    for other in (arn.replace("us-east-1", "eu-west-1"), arn[:-1] + ("0" if arn[-1] != "0" else "1")):
        refused = expect_error("ResourceNotFoundException", 404, client.list_tags, Resource=other)
        assert refused["Error"]["Message"] == f"Event source mapping not found: {other}", refused
    for kind in ("code-signing-config:csc-0123456789abcdef0", "capacity-provider:p", "network-connector:n"):
        expect_error("ResourceNotFoundException", 404, client.list_tags,
                     Resource=f"arn:aws:lambda:us-east-1:123456789012:{kind}")


def settings(client, _):
    # As the service has it for a function without one, whatever the model requires.
    assert "CodeSigningConfigArn" not in client.get_function_code_signing_config(FunctionName="one")
    without(client)
    for loop in ("Allow", "Terminate"):
        client.put_function_recursion_config(FunctionName="one", RecursiveLoop=loop)
        assert client.get_function_recursion_config(FunctionName="one")["RecursiveLoop"] == loop
    assert client.get_runtime_management_config(FunctionName="one")["UpdateRuntimeOn"] == "Auto"
    client.put_runtime_management_config(FunctionName="one", Qualifier="1", UpdateRuntimeOn="FunctionUpdate")
    assert client.get_runtime_management_config(FunctionName="one", Qualifier="1")["UpdateRuntimeOn"] == "FunctionUpdate"
    assert client.get_account_settings()["AccountUsage"]["FunctionCount"] == 2


def without(client):
    """What an account without code signing and capacity providers is told, in exceptions that the model has."""
    bad = "InvalidParameterValueException"
    expect_error(bad, 400, client.create_code_signing_config,
                 AllowedPublishers={"SigningProfileVersionArns": [f"arn:aws:signer:us-east-1:123456789012:/signing-profiles/p/{'a' * 10}"]})
    expect_error(bad, 400, client.create_capacity_provider, CapacityProviderName="p",
                 VpcConfig={"SubnetIds": ["subnet-0123456789abcdef0"], "SecurityGroupIds": ["sg-0123456789abcdef0"]},
                 PermissionsConfig={"CapacityProviderOperatorRoleArn": "arn:aws:iam::123456789012:role/any"})
    for qualifier in ("$LATEST.PUBLISHED", "1"):
        of_version = {"FunctionName": "one", "Qualifier": qualifier}
        expect_error("ResourceNotFoundException", 404, client.get_function_scaling_config, **of_version)
        refused = expect_error(bad, 400, client.put_function_scaling_config, **of_version,
                               FunctionScalingConfig={"MinExecutionEnvironments": 1})
        assert "capacity provider" in refused["Error"]["Message"], refused
    expect_error("ValidationException", 400, client.get_function_scaling_config, FunctionName="one", Qualifier="$LATEST")


def far_away(client, _):
    """An ARN of another region leads nowhere, with whatever operation."""
    arn = client.get_function(FunctionName="one")["Configuration"]["FunctionArn"]
    far = arn.replace(":us-east-1:", ":eu-west-1:")
    for call in (client.get_function, client.get_policy, client.list_aliases, client.invoke, client.delete_function,
                 client.get_function_concurrency, client.list_function_url_configs, client.publish_version):
        refused = expect_error("ResourceNotFoundException", 404, call, FunctionName=far)
        words = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
        assert refused["Error"]["Message"] == words, refused
    expect_error("ResourceNotFoundException", 404, client.list_tags, Resource=far)
    assert client.get_function(FunctionName=arn)["Configuration"]["FunctionArn"] == arn


def lists(client, _):
    paginated = {
        method for method in client.meta.method_to_api_mapping if client.can_paginate(method)}
    for method, arguments in OTHER_PAGINATORS.items():
        assert method in paginated
        list(client.get_paginator(method).paginate(**arguments))


def delete(client, _):
    client.delete_alias(FunctionName="one", Name="blue")
    for name in ("one", "two"):
        client.delete_function(FunctionName=name)
        expect_error("ResourceNotFoundException", 404, client.get_function, FunctionName=name)


def main():
    case = dict(zip(("runtime", "handler", "zip"), sys.argv[1:]))
    client = wire.client()
    for step in (functions, layers, tags, concurrency, urls, events, settings, far_away, lists, delete):
        step(client, case)
        print(f"{step.__name__} ok")
    missing = set(TIER_ONE) - wire.CHECKER.operations
    assert not missing, f"never called: {missing}"
    waiters = {"function_active", "function_active_v2", "function_exists", "function_updated", "function_updated_v2",
               "published_version_active"}
    assert set(client.waiter_names) == waiters, client.waiter_names
    wire.finish(expected_min=90)


main()
