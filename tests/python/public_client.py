"""The public Python runtime client, awslambdaric, as the bootstrap of a `provided.al2023` function.

The client and its dependencies come along in the package, as its users ship it.
"""
import io
import json
import os
import sys
import zipfile

import awslambdaric

import wire

# The system's interpreter, as the sandbox sees it: an absolute path below /usr or on the sandbox's path.
BOOTSTRAP = """#!/bin/sh
cd /var/task
export PYTHONPATH=/var/task/lib
exec python3 -m awslambdaric app.handler
"""
APP = "def handler(event, context):\n    return {'echo': event, 'id': context.aws_request_id}\n"


def package():
    libraries = os.path.dirname(os.path.dirname(awslambdaric.__file__))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("bootstrap", BOOTSTRAP), ("app.py", APP)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, text)
        wanted = ("awslambdaric", "simplejson", "snapshot_restore_py", "runtime_client")
        for folder, _, files in os.walk(libraries):
            relative = os.path.relpath(folder, libraries)
            top = relative.split(os.sep)[0]
            for file in files:
                if top.startswith(wanted) or (relative == "." and file.startswith(wanted)):
                    if not file.endswith(".pyc"):
                        archive.write(os.path.join(folder, file), os.path.join("lib", relative, file))
    return buffer.getvalue()


def main():
    client = wire.client()
    client.create_function(
        FunctionName="public", Runtime="provided.al2023", Handler="app.handler", Timeout=20,
        Role="arn:aws:iam::123456789012:role/any", Code={"ZipFile": package()})
    client.get_waiter("function_active_v2").wait(FunctionName="public")
    for number in range(3):
        answer = client.invoke(FunctionName="public", Payload=json.dumps({"n": number}), LogType="Tail")
        body = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer and body["echo"] == {"n": number}, (answer, body)
    print("awslambdaric answered three times", file=sys.stdout)


main()
