"""Durable functions without any SDK: they speak the envelope themselves."""
import http.client
import json
import os
import urllib.parse


def ask(method, path, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"], timeout=20)
    connection.request(method, path, json.dumps(body) if body is not None else None,
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read() or b"{}")
    return response.status, response.getheader("x-amzn-ErrorType"), answer


def checkpoint(event, token, updates):
    arn = urllib.parse.quote(event["DurableExecutionArn"], safe="")
    return ask("POST", f"/2025-12-01/durable-executions/{arn}/checkpoint",
               {"CheckpointToken": token, "Updates": updates})


def handler(event, context):
    state = {operation["Id"]: operation for operation in event["InitialExecutionState"]["Operations"]}
    execution = next(operation for operation in state.values() if operation["Type"] == "EXECUTION")
    wanted = json.loads(execution["ExecutionDetails"]["InputPayload"])
    token = event["CheckpointToken"]
    if wanted.get("do") == "answer":
        return {"Status": "SUCCEEDED", "Result": json.dumps({"echo": wanted})}
    if wanted.get("do") == "nonsense":
        return {"Status": "DONE"}
    if wanted.get("do") == "idle":
        return {"Status": "PENDING"}
    if wanted.get("do") == "stale":
        step = {"Id": "s", "Type": "STEP", "Action": "START"}
        first = checkpoint(event, token, [step])
        second = checkpoint(event, token, [{"Id": "t", "Type": "STEP", "Action": "START"}])
        arn = urllib.parse.quote(event["DurableExecutionArn"].replace("/durable-execution/", "/durable-execution/x"), safe="")
        other = ask("POST", f"/2025-12-01/durable-executions/{arn}/checkpoint", {"CheckpointToken": token})
        arn = urllib.parse.quote(event["DurableExecutionArn"], safe="")
        stop = ask("POST", f"/2025-12-01/durable-executions/{arn}/stop", {})
        return {"Status": "SUCCEEDED", "Result": json.dumps([first[:2], second, other[:2], stop[:2]])}
    if "w" not in state:
        status, _, answer = checkpoint(event, token, [
            {"Id": "s", "Type": "STEP", "Action": "START", "Name": "only"},
            {"Id": "s", "Type": "STEP", "Action": "SUCCEED", "Payload": "\"done\""},
            {"Id": "w", "Type": "WAIT", "Action": "START", "WaitOptions": {"WaitSeconds": 1}},
        ])
        assert status == 200, answer
        return {"Status": "PENDING"}
    assert state["w"]["Status"] == "SUCCEEDED", state
    assert event["UpdatedOperationIds"] == ["w"], event
    return {"Status": "SUCCEEDED", "Result": state["s"]["StepDetails"]["Result"]}
