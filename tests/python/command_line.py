"""The walk of a first hour with the AWS CLI: every command is the real `aws`.

usage: command_line.py RUNTIME HANDLER ZIP
"""
import json
import os
import subprocess
import sys
import tempfile

AWS = os.path.join(os.path.dirname(sys.executable), "aws")
ROLE = "arn:aws:iam::123456789012:role/any"


# What the CLI's two major versions end with when the service refuses.
REFUSED = (254, 255)


def aws(*words, codes=(0,)):
    done = subprocess.run([AWS, "lambda", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode in codes, f"aws lambda {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout) if codes == (0,) and done.stdout.strip() else done.stderr


def main():
    runtime, handler, package = sys.argv[1:]
    made = aws("create-function", "--function-name", "walk", "--runtime", runtime, "--handler", handler,
               "--role", ROLE, "--zip-file", f"fileb://{package}", "--tags", "team=knots")
    assert made["FunctionName"] == "walk"
    aws("wait", "function-active-v2", "--function-name", "walk")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        answer = aws("invoke", "--function-name", "walk", "--payload", '{"name": "ada"}', "--log-type", "Tail", out)
        assert answer["StatusCode"] == 200 and answer["ExecutedVersion"] == "$LATEST", answer
        with open(out) as file:
            assert json.load(file)["echo"] == {"name": "ada"}
        failed = aws("invoke", "--function-name", "walk", "--payload", '{"do": "fail"}', out)
        assert failed["FunctionError"] == "Unhandled", failed
    aws("update-function-configuration", "--function-name", "walk", "--memory-size", "512")
    aws("wait", "function-updated-v2", "--function-name", "walk")
    aws("update-function-code", "--function-name", "walk", "--zip-file", f"fileb://{package}")
    aws("wait", "function-updated", "--function-name", "walk")
    assert aws("publish-version", "--function-name", "walk")["Version"] == "1"
    aws("create-alias", "--function-name", "walk", "--name", "live", "--function-version", "1")
    assert aws("get-alias", "--function-name", "walk", "--name", "live")["FunctionVersion"] == "1"
    assert [f["FunctionName"] for f in aws("list-functions")["Functions"]] == ["walk"]
    got = aws("get-function", "--function-name", "walk", "--qualifier", "live")
    assert got["Configuration"]["MemorySize"] == 512 and got["Configuration"]["Version"] == "1", got
    assert "ResourceConflictException" in aws(
        "create-function", "--function-name", "walk", "--runtime", runtime, "--handler", handler, "--role", ROLE,
        "--zip-file", f"fileb://{package}", codes=REFUSED)
    aws("delete-function", "--function-name", "walk")
    assert "ResourceNotFoundException" in aws("get-function", "--function-name", "walk", codes=REFUSED)
    print("the walk is done")


main()
