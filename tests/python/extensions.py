"""A function with an extension in a layer: it registers, hears telemetry, and is told when the sandbox ends.

Argument: the runtime of the function; or `again`, to invoke it once more.
"""
import io
import json
import sys
import zipfile

import boto3

EXTENSION = """#!/usr/bin/env python3
import http.client, http.server, json, os, threading

def call(method, path, fields, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    # As `urllib` does: each request has a connection of its own, which is to close.
    connection.request(method, path, body, {**fields, "Connection": "close"})
    answer = connection.getresponse()
    return answer.headers, answer.read()

class Listener(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_POST(self):
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("/tmp/records", "a") as file:
            for record in records:
                file.write(json.dumps(record) + "\\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

server = http.server.ThreadingHTTPServer(("sandbox.localdomain", 8080), Listener)
threading.Thread(target=server.serve_forever, daemon=True).start()
headers, _ = call("POST", "/2020-01-01/extension/register", {"Lambda-Extension-Name": os.path.basename(__file__)},
    json.dumps({"events": ["INVOKE", "SHUTDOWN"]}))
me = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
call("PUT", "/2022-07-01/telemetry", me, json.dumps({
    "schemaVersion": "2022-12-13", "types": ["platform", "function"], "buffering": {"timeoutMs": 25},
    "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080"}}))
while True:
    event = json.loads(call("GET", "/2020-01-01/extension/event/next", me)[1])
    if event["eventType"] == "SHUTDOWN":
        print("the ear heard the end:", event["shutdownReason"], flush=True)
        break
    print("the ear heard of", event["requestId"], flush=True)
"""
APP = """import os, time
def handler(event, context):
    print("the function ran")
    # Records of the invocation before this one come when they come.
    deadline = time.time() + 15
    while True:
        records = open("/tmp/records").read() if os.path.exists("/tmp/records") else ""
        if event["until"] in records or time.time() > deadline:
            return records
        time.sleep(0.02)
"""


def package(name, text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, text)
    return buffer.getvalue()


def invoke(client, until):
    answer = client.invoke(FunctionName="heard", Payload=json.dumps({"until": until}), LogType="Tail")
    text = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, text
    return answer["ResponseMetadata"]["RequestId"], [json.loads(line) for line in text.splitlines()]


def main():
    client = boto3.client("lambda")
    runtime = sys.argv[1]
    if runtime == "again":
        invoke(client, "platform.initReport")
        return
    layer = client.publish_layer_version(LayerName="ear", Content={"ZipFile": package("extensions/ear", EXTENSION)})
    client.create_function(
        FunctionName="heard", Runtime=runtime, Handler="app.handler", Timeout=20,
        Role="arn:aws:iam::123456789012:role/any", Code={"ZipFile": package("app.py", APP)},
        Layers=[layer["LayerVersionArn"]])
    client.get_waiter("function_active_v2").wait(FunctionName="heard")
    first, _ = invoke(client, "platform.initReport")
    _, records = invoke(client, "platform.report")
    kinds = [record["type"] for record in records]
    for kind in ("initStart", "initRuntimeDone", "initReport", "extension", "telemetrySubscription", "start",
                 "runtimeDone", "report"):
        assert "platform." + kind in kinds, (kind, kinds)
    report = next(record["record"] for record in records if record["type"] == "platform.report")
    assert report["requestId"] == first and report["status"] == "success", report
    assert {"durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "initDurationMs"} == set(
        report["metrics"]), report
    lines = [record["record"] for record in records if record["type"] == "function"]
    assert "the function ran" in lines, lines
    # Its sandbox is of no use any more.
    client.update_function_configuration(FunctionName="heard", Description="another")
    client.get_waiter("function_updated_v2").wait(FunctionName="heard")


main()
