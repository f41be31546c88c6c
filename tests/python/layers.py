"""Layers through boto3, in a Python function and in a Node.js function where there is a node.

usage: layers.py PYTHON-RUNTIME NODE-RUNTIME|-
"""
import base64
import hashlib
import io
import json
import sys
import urllib.request
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import wire

ROLE = "arn:aws:iam::123456789012:role/any"
PYTHON = """
import ctypes, knots, os, subprocess
def handler(event, context):
    return {"name": knots.NAME, "tool": subprocess.check_output(["tool"], text=True).strip(),
            "opt": sorted(os.listdir("/opt"))}
"""
NODE = "const knots = require('knots'); exports.handler = async () => knots.name;"


def archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zip:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100755 << 16
            zip.writestr(info, text)
    return content.getvalue()


def expect_error(code, status, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == (code, status), f"{call.__name__}: {got}, expected {(code, status)}: {error}"
        return error.response["Error"]["Message"]
    raise AssertionError(f"{call.__name__} succeeded, expected {code}")


def deploy(client, name, runtime, handler, files, layers):
    client.create_function(FunctionName=name, Runtime=runtime, Handler=handler, Role=ROLE, Timeout=20,
                           Code={"ZipFile": archive(files)}, Layers=layers)
    client.get_waiter("function_active_v2").wait(FunctionName=name)


def invoke(client, name):
    answer = client.invoke(FunctionName=name)
    body = answer["Payload"].read()
    assert "FunctionError" not in answer, body
    return json.loads(body)


def publish(client, name, files, **more):
    content = archive(files)
    published = client.publish_layer_version(LayerName=name, Content={"ZipFile": content}, **more)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert published["Content"]["CodeSha256"] == digest and published["Content"]["CodeSize"] == len(content), published
    link = client.get_layer_version(LayerName=name, VersionNumber=published["Version"])["Content"]["Location"]
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == content, "the link gives the archive"
    return published["LayerVersionArn"]


def use(client, python, node):
    low = publish(client, "low", {"python/knots.py": "NAME = 'low'", "bin/tool": "#!/bin/sh\necho low\n", "low": ""},
                  CompatibleRuntimes=[python, "nodejs20.x"], CompatibleArchitectures=["x86_64", "arm64"],
                  Description="below", LicenseInfo="MIT")
    high = publish(client, "high", {"python/knots.py": "NAME = 'high'", "high": ""})
    assert low.endswith(":layer:low:1"), low
    deploy(client, "snake", python, "app.handler", {"app.py": PYTHON}, [low, high])
    shown = client.get_function(FunctionName="snake")["Configuration"]
    assert [layer["Arn"] for layer in shown["Layers"]] == [low, high], shown["Layers"]
    assert all(layer["CodeSize"] > 0 for layer in shown["Layers"]), shown["Layers"]
    expected = {"name": "high", "tool": "low", "opt": ["bin", "high", "low", "python"]}
    assert invoke(client, "snake") == expected, invoke(client, "snake")
    client.update_function_configuration(FunctionName="snake", Layers=[high, low])
    client.get_waiter("function_updated_v2").wait(FunctionName="snake")
    assert invoke(client, "snake")["name"] == "low", "the last layer wins"
    version = client.publish_version(FunctionName="snake")
    assert [layer["Arn"] for layer in version["Layers"]] == [high, low], version
    client.update_function_configuration(FunctionName="snake", Layers=[])
    client.get_waiter("function_updated_v2").wait(FunctionName="snake")
    assert "Layers" not in client.get_function_configuration(FunctionName="snake")
    # What was published keeps its layers, though nobody else can have them any more.
    client.delete_layer_version(LayerName="low", VersionNumber=1)
    assert invoke(client, "snake:1")["name"] == "low"
    refused = expect_error("InvalidParameterValueException", 400, client.update_function_configuration,
                           FunctionName="snake", Layers=[low])
    assert refused == f"Layer version {low} does not exist.", refused
    expect_error("ResourceNotFoundException", 404, client.get_layer_version, LayerName="low", VersionNumber=1)
    assert publish(client, "low", {"a": ""}).endswith(":2"), "numbers are never used again"
    if node != "-":
        knots = publish(client, "knots", {"nodejs/node_modules/knots/index.js": "exports.name = 'bowline';"})
        deploy(client, "script", node, "app.handler", {"app.js": NODE}, [knots])
        assert invoke(client, "script") == "bowline"


def lists(client, python):
    for number in range(3):
        publish(client, "listed", {"a": str(number)}, CompatibleRuntimes=[python] if number == 0 else ["java21"])
    pages = client.get_paginator("list_layer_versions").paginate(LayerName="listed", PaginationConfig={"PageSize": 2})
    assert [version["Version"] for page in pages for version in page["LayerVersions"]] == [3, 2, 1]
    pages = client.get_paginator("list_layers").paginate(CompatibleRuntime=python, PaginationConfig={"PageSize": 1})
    found = {layer["LayerName"]: layer["LatestMatchingVersion"]["Version"] for page in pages for layer in page["Layers"]}
    assert found == {"listed": 1}, found
    assert client.list_layer_versions(LayerName="nobody")["LayerVersions"] == []
    by_arn = client.get_layer_version_by_arn(
        Arn="arn:aws:lambda:us-east-1:123456789012:layer:listed:2")
    assert by_arn["Version"] == 2 and by_arn["CompatibleRuntimes"] == ["java21"], by_arn


def permissions(client):
    other = boto3.client("lambda", aws_access_key_id="210987654321", aws_secret_access_key="any",
                         config=Config(retries={"total_max_attempts": 1}))
    arn = "arn:aws:lambda:us-east-1:123456789012:layer:listed"
    expect_error("AccessDeniedException", 403, other.get_layer_version, LayerName=arn, VersionNumber=1)
    expect_error("ResourceNotFoundException", 404, client.get_layer_version_policy, LayerName="listed", VersionNumber=1)
    given = {"LayerName": "listed", "VersionNumber": 1, "StatementId": "other", "Principal": "210987654321",
             "Action": "lambda:GetLayerVersion"}
    added = client.add_layer_version_permission(**given)
    assert json.loads(added["Statement"])["Sid"] == "other", added
    assert other.get_layer_version(LayerName=arn, VersionNumber=1)["Version"] == 1
    expect_error("ResourceConflictException", 409, client.add_layer_version_permission, **given)
    policy = client.get_layer_version_policy(LayerName="listed", VersionNumber=1)
    assert policy["RevisionId"] == added["RevisionId"], policy
    expect_error("PreconditionFailedException", 412, client.remove_layer_version_permission, LayerName="listed",
                 VersionNumber=1, StatementId="other", RevisionId="stale")
    client.remove_layer_version_permission(LayerName="listed", VersionNumber=1, StatementId="other")
    expect_error("AccessDeniedException", 403, other.get_layer_version, LayerName=arn, VersionNumber=1)


def main():
    python, node = sys.argv[1:]
    client = wire.client()
    use(client, python, node)
    lists(client, python)
    permissions(client)
    wire.finish(expected_min=40)


main()
