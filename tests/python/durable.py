"""Durable executions through boto3, by functions with the public SDK and without.

usage: durable.py PHASE FOLDER [RUNTIME]
  PHASE    all, before or after a kill, or node: by the SDK for Node.js, whose packages lie in FOLDER
  RUNTIME  of Node.js
"""
import functools
import importlib.util
import io
import json
import os
import py_compile
import sys
import sysconfig
import tempfile
import time
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::123456789012:role/any"
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "functions", "durable")
RUNTIME = f"python3.{sys.version_info.minor}"
# What the SDK needs, without what it does not touch of the services' models.
PACKAGES = ["aws_durable_execution_sdk_python", "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3"]

client = boto3.client("lambda", config=Config(read_timeout=120, retries={"max_attempts": 0}))


def wanted(path):
    if "__pycache__" in path or path.endswith((".pyc", ".pem")):
        return False
    parts = path.split("/")
    is_data = parts[:2] in (["botocore", "data"], ["boto3", "data"])
    return not is_data or len(parts) == 3 or parts[2] == "lambda"


@functools.cache
def with_sdk():
    site = sysconfig.get_path("purelib")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name in ("app.py", "flows.py"):
            package.write(os.path.join(HERE, name), name)
        package.write(os.path.join(site, "six.py"), "six.py")
        for name in PACKAGES:
            for folder, _, files in os.walk(os.path.join(site, name)):
                for file in files:
                    path = os.path.relpath(os.path.join(folder, file), site)
                    if wanted(path):
                        package.write(os.path.join(site, path), path)
                        add_compiled(package, os.path.join(site, path), path)
    return out.getvalue()


def add_compiled(package, source, path):
    """Bytecode beside the source: the code is read-only in a sandbox, and compiling it takes long."""
    if not path.endswith(".py"):
        return
    with tempfile.TemporaryDirectory() as folder:
        compiled = os.path.join(folder, "compiled")
        py_compile.compile(source, cfile=compiled, dfile=path, doraise=True,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        package.write(compiled, importlib.util.cache_from_source(path))


def of(*names, main="app.py"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        for name in names:
            package.write(os.path.join(HERE, name), main)
    return out.getvalue()


def create(name, code, **more):
    more.setdefault("DurableConfig", {"ExecutionTimeout": 600, "RetentionPeriodInDays": 3})
    client.create_function(FunctionName=name, Runtime=RUNTIME, Handler="app.handler", Role=ROLE, Timeout=120,
                           MemorySize=512, Code={"ZipFile": code}, **more)
    client.get_waiter("function_active_v2").wait(FunctionName=name)


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error.response["Error"]["Message"]
    raise AssertionError(f"{call} was not refused with {code}")


def invoke(name, event, **more):
    more.setdefault("Qualifier", "$LATEST")
    return client.invoke(FunctionName=name, Payload=json.dumps(event), **more)


def start(name, event, **more):
    answer = invoke(name, event, InvocationType="Event", **more)
    assert answer["StatusCode"] == 202, answer
    return answer["DurableExecutionArn"]


def until(arn, *statuses):
    for _ in range(600):
        found = client.get_durable_execution(DurableExecutionArn=arn)
        if found["Status"] in statuses:
            return found
        assert found["Status"] in ("RUNNING", "PAUSING", "PAUSED"), found
        time.sleep(0.1)
    raise AssertionError(f"{arn} is still {found['Status']}")


def history(arn, **more):
    pages = client.get_paginator("get_durable_execution_history").paginate(
        DurableExecutionArn=arn, PaginationConfig={"PageSize": 3}, **more)
    return [event for page in pages for event in page["Events"]]


def event_of(arn, kind):
    for _ in range(300):
        for event in history(arn):
            if event["EventType"] == kind:
                return event
        time.sleep(0.1)
    raise AssertionError(f"{arn} has no {kind}: {[event['EventType'] for event in history(arn)]}")


def kinds(arn):
    return [event["EventType"] for event in history(arn)]


def configuration():
    create("config", of("plain.py"), DurableConfig={"ExecutionTimeout": 60})
    shown = client.get_function_configuration(FunctionName="config")["DurableConfig"]
    assert shown == {"ExecutionTimeout": 60, "RetentionPeriodInDays": 14}, shown
    client.update_function_configuration(FunctionName="config", DurableConfig={"RetentionPeriodInDays": 2})
    client.get_waiter("function_updated_v2").wait(FunctionName="config")
    shown = client.get_function_configuration(FunctionName="config")["DurableConfig"]
    assert shown == {"ExecutionTimeout": 60, "RetentionPeriodInDays": 2}, shown
    create("ordinary", of("plain.py"), DurableConfig={"ExecutionTimeout": 60})
    client.delete_function(FunctionName="ordinary")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        package.writestr("app.py", "def handler(event, context):\n    return {'hello': event['name']}\n")
    client.create_function(FunctionName="ordinary", Runtime=RUNTIME, Handler="app.handler", Role=ROLE,
                           Code={"ZipFile": out.getvalue()})
    client.get_waiter("function_active_v2").wait(FunctionName="ordinary")
    assert "DurableConfig" not in client.get_function_configuration(FunctionName="ordinary")
    refused("InvalidParameterValueException", client.update_function_configuration, FunctionName="ordinary",
            DurableConfig={"ExecutionTimeout": 60})
    refused("InvalidParameterValueException", invoke, name="ordinary", event={}, DurableExecutionName="x")
    refused("InvalidParameterValueException", client.invoke, FunctionName="config", Payload="{}")
    create("long", of("plain.py"), DurableConfig={"ExecutionTimeout": 901})
    assert "15 minutes" in refused("InvalidParameterValueException", invoke, name="long", event={})


def without_sdk():
    create("plain", of("plain.py"))
    answer = invoke("plain", {"do": "answer"})
    arn = answer["DurableExecutionArn"]
    assert json.loads(answer["Payload"].read()) == {"echo": {"do": "answer"}} and "FunctionError" not in answer
    assert kinds(arn) == ["ExecutionStarted", "InvocationCompleted", "ExecutionSucceeded"], kinds(arn)
    answer = invoke("plain", {"do": "nonsense"})
    assert answer["FunctionError"] == "Unhandled", answer
    assert "Status" in json.loads(answer["Payload"].read())["errorMessage"]
    answer = invoke("plain", {})
    assert json.loads(answer["Payload"].read()) == "done"
    assert kinds(answer["DurableExecutionArn"]) == [
        "ExecutionStarted", "StepStarted", "StepSucceeded", "WaitStarted", "InvocationCompleted", "WaitSucceeded",
        "InvocationCompleted", "ExecutionSucceeded"], kinds(answer["DurableExecutionArn"])
    first, second, other, stop = json.loads(invoke("plain", {"do": "stale"})["Payload"].read())
    assert first == [200, None], first
    assert second[0] == 400 and second[1] == "InvalidParameterValueException", second
    assert second[2]["message"].startswith("Invalid checkpoint token"), second
    assert other == [403, "AccessDeniedException"] and stop == [403, "AccessDeniedException"], (other, stop)


def names():
    once = invoke("plain", {"do": "answer", "n": 1}, DurableExecutionName="order-1")
    again = invoke("plain", {"do": "answer", "n": 1}, DurableExecutionName="order-1")
    assert once["DurableExecutionArn"] == again["DurableExecutionArn"]
    assert "/durable-execution/order-1/" in once["DurableExecutionArn"]
    refused("DurableExecutionAlreadyStartedException", invoke, name="plain", event={"n": 2},
            DurableExecutionName="order-1")
    found = client.list_durable_executions_by_function(FunctionName="plain", DurableExecutionName="order-1")
    assert [e["DurableExecutionArn"] for e in found["DurableExecutions"]] == [once["DurableExecutionArn"]]
    pages = client.get_paginator("list_durable_executions_by_function")
    everything = [e for page in pages.paginate(FunctionName="plain", PaginationConfig={"PageSize": 2})
                  for e in page["DurableExecutions"]]
    oldest = [e for page in pages.paginate(FunctionName="plain", ReverseOrder=True, PaginationConfig={"PageSize": 2})
              for e in page["DurableExecutions"]]
    assert len(everything) == 5 and everything == oldest[::-1], (everything, oldest)
    failed = client.list_durable_executions_by_function(FunctionName="plain", Statuses=["FAILED"])["DurableExecutions"]
    assert len(failed) == 1 and failed[0]["Status"] == "FAILED", failed
    middle = everything[2]["StartTimestamp"]
    later = client.list_durable_executions_by_function(FunctionName="plain", StartedAfter=middle)["DurableExecutions"]
    assert [e["DurableExecutionArn"] for e in later] == [e["DurableExecutionArn"] for e in everything[:2]], later
    client.delete_durable_execution(DurableExecutionArn=once["DurableExecutionArn"])
    for _ in range(100):
        found = client.list_durable_executions_by_function(FunctionName="plain", DurableExecutionName="order-1")
        if not found["DurableExecutions"]:
            break
        time.sleep(0.1)
    refused("ResourceNotFoundException", client.get_durable_execution, DurableExecutionArn=once["DurableExecutionArn"])
    invoke("plain", {"do": "answer", "n": 2}, DurableExecutionName="order-1")


def sdk():
    answer = invoke("sdk", {"wait": 1, "all": True, "large": 300000, "invoke": "ordinary"})
    payload = answer["Payload"].read()
    assert "FunctionError" not in answer, payload
    result = json.loads(payload)
    assert result["retried"] == 3 and result["squares"] == [1, 4, 9], result
    assert result["invoked"] == {"hello": "ada"} and len(result["large"]) == 300000
    assert [text.split("-")[0] for text in result["both"]] == ["left", "right"], result["both"]
    arn = answer["DurableExecutionArn"]
    events = history(arn)
    assert [event["EventId"] for event in events] == list(range(1, len(events) + 1))
    assert history(arn, ReverseOrder=True) == events[::-1]
    steps = {event.get("Name"): event for event in events if event["EventType"] == "StepSucceeded"}
    recorded = json.loads(steps["flaky"]["StepSucceededDetails"]["Result"]["Payload"])
    assert recorded == 3 and steps["flaky"]["StepSucceededDetails"]["RetryDetails"]["CurrentAttempt"] == 3
    firsts = [event for event in events if event["EventType"] == "StepSucceeded" and event.get("Name") == "fresh"
              and "first-" in event["StepSucceededDetails"]["Result"]["Payload"]]
    assert len(firsts) == 1 and json.loads(firsts[0]["StepSucceededDetails"]["Result"]["Payload"]) == result["first"]
    seen = {event["EventType"] for event in events}
    assert {"ContextStarted", "ContextSucceeded", "StepFailed", "WaitStarted", "WaitSucceeded",
            "ChainedInvokeStarted", "ChainedInvokeSucceeded", "InvocationCompleted"} <= seen, seen
    bare = history(arn, IncludeExecutionData=False)
    assert "Payload" not in bare[0]["ExecutionStartedDetails"]["Input"], bare[0]
    found = client.get_durable_execution(DurableExecutionArn=arn)
    assert found["Status"] == "SUCCEEDED" and json.loads(found["Result"]) == result and found["Version"] == "$LATEST"
    found = client.get_durable_execution(DurableExecutionArn=arn, IncludeExecutionData=False)
    assert "Result" not in found and found["ExecutionDataIncluded"] is False
    failed = invoke("sdk", {"do": "fail"})
    error = json.loads(failed["Payload"].read())
    assert failed["FunctionError"] == "Unhandled" and error["errorMessage"] == "as you wish", error
    chained = invoke("sdk", {"invoke": "plain"})
    assert json.loads(chained["Payload"].read())["invoked"] == "done", "a durable function chained"
    missing = invoke("sdk", {"invoke": "nobody"})
    assert missing["FunctionError"] == "Unhandled"


def control():
    arn = start("sdk", {"callback": True})
    callback = event_of(arn, "CallbackStarted")["CallbackStartedDetails"]["CallbackId"]
    client.send_durable_execution_callback_heartbeat(CallbackId=callback)
    client.send_durable_execution_callback_success(CallbackId=callback, Result=json.dumps({"yes": True}))
    found = until(arn, "SUCCEEDED")
    assert json.loads(json.loads(found["Result"])["approval"]) == {"yes": True}, found["Result"]
    refused("CallbackTimeoutException", client.send_durable_execution_callback_success, CallbackId=callback)
    refused("InvalidParameterValueException", client.send_durable_execution_callback_success, CallbackId="bm8=")
    arn = start("sdk", {"callback": True})
    callback = event_of(arn, "CallbackStarted")["CallbackStartedDetails"]["CallbackId"]
    client.send_durable_execution_callback_failure(CallbackId=callback, Error={"ErrorMessage": "no", "ErrorType": "No"})
    assert until(arn, "FAILED")["Error"]["ErrorMessage"] == "no"
    arn = start("sdk", {"callback": True})
    callback = event_of(arn, "CallbackStarted")["CallbackStartedDetails"]["CallbackId"]
    event_of(arn, "InvocationCompleted")
    client.pause_durable_execution(DurableExecutionArn=arn, Reason="lunch")
    found = until(arn, "PAUSED")
    assert found["PauseDetails"]["Reason"] == "lunch" and found["PauseDetails"]["ExecutionTimeoutPaused"] is True
    client.send_durable_execution_callback_success(CallbackId=callback, Result="1")
    refused("ResourceConflictException", client.pause_durable_execution, DurableExecutionArn=arn)
    refused("ResourceConflictException", client.delete_durable_execution, DurableExecutionArn=arn)
    assert client.get_durable_execution(DurableExecutionArn=arn)["Status"] == "PAUSED"
    client.resume_durable_execution(DurableExecutionArn=arn)
    until(arn, "SUCCEEDED")
    assert "ExecutionPaused" in kinds(arn) and "ExecutionResumed" in kinds(arn), kinds(arn)
    arn = start("sdk", {"wait": 500})
    event_of(arn, "WaitStarted")
    stopped = client.stop_durable_execution(DurableExecutionArn=arn, Error={"ErrorMessage": "enough"})
    found = until(arn, "STOPPED")
    assert found["Error"] == {"ErrorMessage": "enough"} and found["EndTimestamp"] == stopped["StopTimestamp"]
    refused("ResourceNotFoundException", client.get_durable_execution,
            DurableExecutionArn=arn[:-1] + ("0" if arn[-1] != "0" else "1"))
    refused("InvalidParameterValueException", client.get_durable_execution, DurableExecutionArn="nonsense")
    create("brief", with_sdk(), DurableConfig={"ExecutionTimeout": 2})
    timed = invoke("brief", {"wait": 30})
    assert "timed out" in json.loads(timed["Payload"].read())["errorMessage"]
    assert until(timed["DurableExecutionArn"], "TIMED_OUT")["Status"] == "TIMED_OUT"


def before_the_kill(folder):
    create("sdk", with_sdk())
    waiting = start("sdk", {"wait": 3}, DurableExecutionName="waits")
    answered = start("sdk", {"callback": True}, DurableExecutionName="answers")
    first = event_of(waiting, "StepSucceeded")["StepSucceededDetails"]["Result"]["Payload"]
    event_of(waiting, "WaitStarted")
    callback = event_of(answered, "CallbackStarted")["CallbackStartedDetails"]["CallbackId"]
    with open(os.path.join(folder, "before.json"), "w") as file:
        json.dump({"waiting": waiting, "answered": answered, "first": json.loads(first), "callback": callback}, file)


def after_the_kill(folder):
    with open(os.path.join(folder, "before.json")) as file:
        before = json.load(file)
    found = until(before["waiting"], "SUCCEEDED")
    assert json.loads(found["Result"])["first"] == before["first"], "the step was run again"
    started = [event for event in history(before["waiting"]) if event["EventType"] == "StepStarted"]
    assert len(started) == 2, started
    client.send_durable_execution_callback_success(CallbackId=before["callback"], Result="7")
    assert json.loads(until(before["answered"], "SUCCEEDED")["Result"])["approval"] == "7"


def packages_of_node(folder):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        package.write(os.path.join(HERE, "sdk.js"), "sdk.js")
        for at, _, files in os.walk(os.path.join(folder, "node_modules")):
            for file in files:
                path = os.path.relpath(os.path.join(at, file), folder)
                # What only compilers and bundlers read is left out.
                if file.endswith((".js", ".cjs", ".json")) and "/dist-es/" not in path:
                    package.write(os.path.join(folder, path), path)
    return out.getvalue()


def node(folder, runtime):
    client.create_function(
        FunctionName="script", Runtime=runtime, Handler="sdk.handler", Role=ROLE, Timeout=60, MemorySize=512,
        Code={"ZipFile": packages_of_node(folder)}, DurableConfig={"ExecutionTimeout": 600})
    client.get_waiter("function_active_v2").wait(FunctionName="script")
    answer = invoke("script", {})
    result = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, result
    assert result["first"].startswith("first-") and result["retried"] >= 1, result
    assert result["squares"] == [1, 4, 9] and result["both"] == ["left", "right"], result
    assert [part.split("-")[0] for part in result["chapter"]] == ["before", "after"], result
    arn = answer["DurableExecutionArn"]
    steps = [event for event in history(arn) if event["EventType"] == "StepSucceeded"]
    assert len([event for event in steps if event.get("Name") == "first"]) == 1, "a step is run once"
    assert "StepFailed" in kinds(arn) and kinds(arn).count("WaitSucceeded") == 2, kinds(arn)
    failed = invoke("script", {"do": "fail"})
    error = json.loads(failed["Payload"].read())
    assert failed["FunctionError"] == "Unhandled" and error["errorMessage"] == "as you wish", error
    waiting = start("script", {"callback": True})
    callback = event_of(waiting, "CallbackStarted")["CallbackStartedDetails"]["CallbackId"]
    client.send_durable_execution_callback_success(CallbackId=callback, Result="yes")
    assert json.loads(until(waiting, "SUCCEEDED")["Result"])["approval"] == "yes"
    print("durable executions of Node.js behave")


def main():
    phase, folder, *runtime = sys.argv[1:]
    if phase == "node":
        return node(folder, *runtime)
    if phase == "before":
        return before_the_kill(folder)
    if phase == "after":
        return after_the_kill(folder)
    configuration()
    without_sdk()
    names()
    create("sdk", with_sdk())
    sdk()
    control()
    print("durable executions behave")


main()
