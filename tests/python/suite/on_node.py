"""A pytest plugin that has a suite's Lambda clients speak to nodes, and all others to the suite's own server.

environment: NODES (REGION=ADDRESS, several by commas), EXCLUSIONS (a file: a test and the reason a line)

The suite was written for a service that needs no time and keeps everything in one process. So what a test makes is waited
for before the test goes on, and what it leaves is removed before the next one.
"""
import os
import time

import botocore.session
import pytest

NODES = dict(node.split("=", 1) for node in os.environ["NODES"].split(","))
# On loopback the key names the account, whatever the signature.
ACCESS = {"aws_access_key_id": "123456789012", "aws_secret_access_key": "any", "aws_session_token": None}
PATIENCE = 60
MAKES_SOMETHING = ["CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration", "PublishVersion"]

create_client = botocore.session.Session.create_client


def on_node(session, service_name, region_name=None, *args, **kwargs):
    if service_name != "lambda" or region_name not in NODES:
        return create_client(session, service_name, region_name, *args, **kwargs)
    kwargs.update(endpoint_url=NODES[region_name], **ACCESS)
    client = create_client(session, service_name, region_name, *args, **kwargs)
    for operation in MAKES_SOMETHING:
        settles = lambda parsed, **_: settle(PLAIN[region_name], parsed)
        client.meta.events.register(f"after-call.lambda.{operation}", settles)
    for operation in ["CreateEventSourceMapping", "UpdateEventSourceMapping"]:
        reads = lambda parsed, **_: settle_mapping(PLAIN[region_name], parsed)
        client.meta.events.register(f"after-call.lambda.{operation}", reads)
    named = lambda parsed, **_: name_as_the_service_does(region_name, parsed)
    client.meta.events.register("after-call.lambda.GetFunction", named)
    return client


def name_as_the_service_does(region, parsed):
    """A link to the code leads to the node; the suite looks at where the service's leads to."""
    code = parsed.get("Code", {})
    if code.get("Location", "").startswith(NODES[region]):
        code["Location"] = f"https://awslambda-{region}-tasks.s3.{region}.amazonaws.com/code"


def settle(plain, parsed):
    """Waits until what was made is ready, as it is at once where nothing is prepared."""
    arn = parsed.get("FunctionArn")
    end = time.monotonic() + PATIENCE
    while arn and time.monotonic() < end:
        shown = plain.get_function_configuration(FunctionName=arn)
        if shown["State"] != "Pending" and shown["LastUpdateStatus"] != "InProgress":
            parsed.update((key, shown[key]) for key in ("State", "LastUpdateStatus") if key in parsed)
            return
        time.sleep(0.02)


PLAIN = {
    region: create_client(botocore.session.Session(), "lambda", region_name=region, endpoint_url=node, **ACCESS)
    for region, node in NODES.items()
}
botocore.session.Session.create_client = on_node


def settle_mapping(plain, parsed):
    """Waits until a mapping does as it was told."""
    end = time.monotonic() + PATIENCE
    while parsed.get("State") in ("Creating", "Updating") and time.monotonic() < end:
        parsed["State"] = plain.get_event_source_mapping(UUID=parsed["UUID"])["State"]
        time.sleep(0.02)


def each(client, operation, key):
    for page in client.get_paginator(operation).paginate():
        yield from page[key]


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    # The tests of a class share what its set-up makes.
    for client in PLAIN.values() if request.cls is None else []:
        for mapping in each(client, "list_event_source_mappings", "EventSourceMappings"):
            client.delete_event_source_mapping(UUID=mapping["UUID"])
        for function in each(client, "list_functions", "Functions"):
            client.delete_function(FunctionName=function["FunctionName"])
        for layer in each(client, "list_layers", "Layers"):
            name = layer["LayerName"]
            for version in client.list_layer_versions(LayerName=name)["LayerVersions"]:
                client.delete_layer_version(LayerName=name, VersionNumber=version["Version"])
    yield


def pytest_collection_modifyitems(config, items):
    """Leaves out what is excluded; a line that names no test is an error, so that the list stays true."""
    with open(os.environ["EXCLUSIONS"]) as file:
        lines = [line.split(None, 1) for line in file if line.strip() and not line.startswith("#")]
    matches = lambda item, name: item.name == name or item.name.startswith(f"{name}[")
    for name, reason in lines:
        found = [item for item in items if matches(item, name)]
        if not found:
            raise pytest.UsageError(f"the exclusion {name} names no test")
        for item in found:
            item.add_marker(pytest.mark.skip(reason=f"excluded: {reason.strip()}"))
