"""Functions from container images, through boto3: upload, create, invoke, update, version, delete.

usage: images.py PROGRAM FOLDER
"""
import gzip
import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import urllib.error
import urllib.request

from botocore.exceptions import ClientError, WaiterError

import wire

ROLE = "arn:aws:iam::123456789012:role/any"
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def tar(entries):
    """An archive; an entry is (path, mode, content) or, for a link, (path, target)."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, *rest in entries:
            info = tarfile.TarInfo(path)
            if len(rest) == 1:
                info.type, info.linkname = tarfile.SYMTYPE, rest[0]
                archive.addfile(info)
            else:
                info.mode, info.size = rest[0], len(rest[1])
                archive.addfile(info, io.BytesIO(rest[1]))
    return content.getvalue()


def named(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def image(layers, **config):
    """The files of an OCI image layout, and the image's digest."""
    kept = [gzip.compress(layer, mtime=0) for layer in layers]
    document = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": config,
                           "rootfs": {"type": "layers", "diff_ids": [named(layer) for layer in layers]}}).encode()
    describe = lambda kind, content: {"mediaType": f"application/vnd.oci.image.{kind}", "digest": named(content),
                                      "size": len(content)}
    manifest = json.dumps({"schemaVersion": 2, "config": describe("config.v1+json", document),
                           "layers": [describe("layer.v1.tar+gzip", layer) for layer in kept]}).encode()
    index = json.dumps({"schemaVersion": 2, "manifests": [describe("manifest.v1+json", manifest)]}).encode()
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    files.update({"blobs/sha256/" + named(blob)[7:]: blob for blob in [document, manifest, *kept]})
    return files, named(manifest)


def archive(files):
    return tar([(path, 0o644, content) for path, content in files.items()])


def call(method, path, body=None):
    request = urllib.request.Request(ENDPOINT + path, data=body, method=method, headers={
        "Authorization": "AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/lambda/aws4_request, "
                         "SignedHeaders=host, Signature=0"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def push(name, files):
    status, pushed = call("PUT", f"/v1/images/{name}", archive(files))
    assert status == 201, pushed
    return pushed


def expect_error(code, words, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        assert words in error.response["Error"]["Message"], error
        return
    raise AssertionError(f"{call.__name__} succeeded, expected {code}")


def invoke(client, name, event):
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    body = answer["Payload"].read()
    assert "FunctionError" not in answer, body
    return json.loads(body)


def settle(client, name):
    client.get_waiter("function_updated_v2").wait(FunctionName=name)


def life(client, program):
    base = tar([("usr/bin/guest", 0o755, program), ("bin", "usr/bin"), ("etc/secret", 0o644, b"low"),
                ("etc/gone", 0o644, b"low"), ("desk/here", 0o644, b"here"), ("tmp", "/etc")])
    top = tar([("etc/secret", 0o644, b"high"), ("etc/.wh.gone", 0o644, b""),
               ("opt/extensions/witness", 0o755, program)])
    files, digest = image([base, top], Entrypoint=["guest", "--from-the-image"], Cmd=["one", "two"],
                          Env=["PATH=/nowhere:/bin", "COLOUR=red", "AWS_REGION=mars"], WorkingDir="/desk", User="0")
    pushed = push("hello?tag=1", files)
    assert pushed["ImageUri"] == "hello:1" and pushed["ImageDigest"] == digest, pushed
    assert pushed["ResolvedImageUri"] == f"hello@{digest}", pushed
    created = client.create_function(
        FunctionName="hello", PackageType="Image", Role=ROLE, Code={"ImageUri": "hello:1"}, Timeout=20,
        Environment={"Variables": {"COLOUR": "blue"}})
    assert created["PackageType"] == "Image" and created["CodeSha256"] == digest[7:], created
    assert created["CodeSize"] == 0, created
    client.get_waiter("function_active_v2").wait(FunctionName="hello")
    shown = client.get_function(FunctionName="hello")
    assert shown["Code"] == {"RepositoryType": "ECR", "ImageUri": "hello:1", "ResolvedImageUri": f"hello@{digest}"}
    for member in ("Runtime", "Handler", "Layers", "ImageConfigResponse"):
        assert member not in shown["Configuration"], shown["Configuration"]
    told = invoke(client, "hello", {
        "read": ["/etc/secret", "/etc/gone", "/etc/hosts", "/tmp/witness", "/desk/here", "/etc/resolv.conf"],
        "write": ["/intruder", "/etc/secret", "/usr/bin/guest", "/dev/intruder", "/proc/intruder", "/tmp/mine"]})
    assert told["words"] == ["guest", "--from-the-image", "one", "two"], told
    assert told["folder"] == "/desk" and told["user"] == 1000, told
    assert told["environment"]["COLOUR"] == "blue" and told["environment"]["AWS_REGION"] == "us-east-1", told
    assert told["environment"]["AWS_LAMBDA_FUNCTION_NAME"] == "hello", told
    assert "_HANDLER" not in told["environment"] and "LAMBDA_TASK_ROOT" not in told["environment"], told
    assert told["read"]["/etc/secret"] == "high" and told["read"]["/etc/gone"] is None, told
    assert "sandbox.localdomain sandbox" in told["read"]["/etc/hosts"], told
    assert told["read"]["/etc/resolv.conf"] == "", told
    assert told["read"]["/tmp/witness"] == "registered", "the image's extension runs"
    assert told["top"] == ["bin", "desk", "dev", "etc", "opt", "proc", "tmp", "usr"], told
    assert told["dev"] == ["fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero"], told
    written = told["written"]
    assert written.pop("/tmp/mine") is None, written
    assert all(written.values()), f"the root is written to: {written}"
    return files, digest


def change(client, program, old_digest):
    version = client.publish_version(FunctionName="hello")
    assert version["Version"] == "1" and version["PackageType"] == "Image", version
    second, digest = image([tar([("run", 0o755, program), ("second", 0o644, b"2")])], Entrypoint=["/run"])
    # The tag moves; the function does not.
    push("hello?tag=1", second)
    assert "second" not in invoke(client, "hello", {})["top"]
    updated = client.update_function_code(FunctionName="hello", ImageUri="hello:1")
    assert updated["CodeSha256"] == digest[7:], updated
    settle(client, "hello")
    told = invoke(client, "hello", {})
    assert "second" in told["top"] and told["folder"] == "/" and told["words"] == ["/run"], told
    assert "desk" in invoke(client, "hello:1", {})["top"], "the version has its image for ever"
    assert client.get_function(FunctionName="hello:1")["Code"]["ResolvedImageUri"] == f"hello@{old_digest}"
    config = {"EntryPoint": ["/run", "-e"], "Command": ["c"], "WorkingDirectory": "/tmp"}
    client.update_function_configuration(FunctionName="hello", ImageConfig=config)
    settle(client, "hello")
    shown = client.get_function_configuration(FunctionName="hello")
    assert shown["ImageConfigResponse"] == {"ImageConfig": config}, shown
    told = invoke(client, "hello", {})
    assert told["words"] == ["/run", "-e", "c"] and told["folder"] == "/tmp", told
    client.update_function_configuration(FunctionName="hello", ImageConfig={})
    settle(client, "hello")
    assert "ImageConfigResponse" not in client.get_function_configuration(FunctionName="hello")
    client.update_function_code(FunctionName="hello", ImageUri=f"hello@{digest}")
    settle(client, "hello")


def refusals(client, program, digest):
    invalid = "InvalidParameterValueException"
    create = lambda **more: client.create_function(FunctionName="no", Role=ROLE, **more)
    given = {"PackageType": "Image", "Code": {"ImageUri": "hello:1"}}
    with_handler = "Please don't provide Handler or Runtime or Layer when packageType is Image."
    expect_error(invalid, with_handler, create, Runtime="python3.12", **given)
    expect_error(invalid, with_handler, create, Handler="a.b", **given)
    expect_error(invalid, with_handler, create, Layers=["arn:aws:lambda:us-east-1:123456789012:layer:l:1"], **given)
    expect_error(invalid, "packageType is Zip", create, Code={"ImageUri": "hello:1"}, Runtime="python3.12", Handler="a.b")
    expect_error(invalid, "ImageUri", create, PackageType="Image", Code={"ZipFile": b"PK"})
    for uri, words in [("nobody:1", "does not exist"), ("hello:2", "does not exist"), ("../../etc", "is not valid"),
                       ("/etc/passwd", "is not valid"), (f"hello@sha256:{'0' * 64}", "does not exist"),
                       ("123456789012.dkr.ecr.us-east-1.amazonaws.com/hello:1", "no registry")]:
        expect_error(invalid, words, create, PackageType="Image", Code={"ImageUri": uri})
    expect_error(invalid, "packageType Image", client.update_function_code, FunctionName="hello", ZipFile=b"PK")
    expect_error(invalid, with_handler, client.update_function_configuration, FunctionName="hello", Handler="a.b")
    outside = tar([("../../outside", 0o644, b"!")])
    for layer, words in [(outside, "outside"), (tar([("a", "/etc"), ("a/../../b", 0o644, b"!")]), "outside")]:
        status, refused = call("PUT", "/v1/images/bad", archive(image([layer], Entrypoint=["/x"])[0]))
        assert status == 400 and words in refused["message"], refused
    status, refused = call("PUT", "/v1/images/bad", b"nothing of the kind")
    assert status == 400 and "image" in refused["message"], refused
    assert call("PUT", "/v1/images/UPPER", b"")[0] == 400
    # What starts nothing is refused, or fails to initialise.
    push("empty", image([tar([])])[0])
    expect_error(invalid, "neither an entry point nor a command", create, PackageType="Image", Code={"ImageUri": "empty"})
    client.update_function_configuration(FunctionName="hello", ImageConfig={"WorkingDirectory": "relative"})
    try:
        settle(client, "hello")
        raise AssertionError("a relative working directory was accepted")
    except WaiterError:
        shown = client.get_function_configuration(FunctionName="hello")
    assert (shown["LastUpdateStatus"], shown["LastUpdateStatusReasonCode"]) == ("Failed", "InvalidImage"), shown
    client.update_function_configuration(FunctionName="hello", ImageConfig={})
    settle(client, "hello")
    for name, config, error_type in [("lost", {"Entrypoint": ["/not-there"]}, "Runtime.InvalidEntrypoint"),
                                     ("astray", {"Entrypoint": ["/run"], "WorkingDir": "/not-there"},
                                      "Runtime.InvalidWorkingDir")]:
        push(name, image([tar([("run", 0o755, program)])], **config)[0])
        client.create_function(FunctionName=name, Role=ROLE, PackageType="Image", Code={"ImageUri": name})
        client.get_waiter("function_active_v2").wait(FunctionName=name)
        answer = client.invoke(FunctionName=name)
        payload = json.loads(answer["Payload"].read())
        assert answer["FunctionError"] == "Unhandled" and payload["errorType"] == error_type, payload
        client.delete_function(FunctionName=name)


def lists(client):
    status, listed = call("GET", "/v1/images?MaxItems=2")
    names = [one["ImageUri"] for one in listed["Images"]]
    assert status == 200 and names == ["astray:latest", "empty:latest"], listed
    _, rest = call("GET", f"/v1/images?Marker={listed['NextMarker']}")
    assert [one["ImageUri"] for one in rest["Images"]] == ["hello:1", "lost:latest"], rest
    for name in ("astray", "empty", "lost", "hello?tag=1"):
        assert call("DELETE", f"/v1/images/{name}")[0] == 204
    assert call("DELETE", "/v1/images/lost")[0] == 404
    assert call("GET", "/v1/images")[1] == {"Images": []}
    assert "second" in invoke(client, "hello", {})["top"], "the function keeps its image"
    client.delete_function(FunctionName="hello")


def main():
    program_path, folder = sys.argv[1:]
    with open(program_path, "rb") as file:
        program = file.read()
    client = wire.client()
    files, digest = life(client, program)
    change(client, program, digest)
    refusals(client, program, digest)
    lists(client)
    wire.finish(expected_min=40)
    # For the command line, which takes images from the disk.
    for path, content in files.items():
        os.makedirs(os.path.dirname(os.path.join(folder, "layout", path)), exist_ok=True)
        with open(os.path.join(folder, "layout", path), "wb") as file:
            file.write(content)


main()
