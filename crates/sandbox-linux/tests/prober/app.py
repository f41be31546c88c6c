"""The prober of the Python runtime: does what the event tells it, as the conformance suite asks."""

import ctypes
import json
import os
import signal
import socket
import sys
import time

PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_DETACH = 0, 16, 17
libc = ctypes.CDLL(None, use_errno=True)
count = 0


class KnotError(Exception):
    pass


def call(function, *arguments):
    ctypes.set_errno(0)
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def do_echo(event, context):
    return {"value": event["value"]}


def do_context(event, context):
    client = context.client_context
    return {
        "request_id": context.aws_request_id,
        "deadline_ms": context._deadline_ms,
        "invoked_arn": context.invoked_function_arn,
        "function_name": context.function_name,
        "client_context": None if client is None else {"custom": client.custom},
    }


def do_count(event, context):
    return {"count": count}


def do_read_env(event, context):
    return {"value": os.environ.get(event["name"])}


def do_log(event, context):
    line = (event["text"] + "\n").encode()
    for _ in range(event.get("repeat", 1)):
        os.write(2, line)
    return {}


def do_allocate(event, context):
    block = bytearray(event["mib"] << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return {}


def do_spin(event, context):
    if "ms" not in event:
        while True:
            pass
    end = time.monotonic() + event["ms"] / 1000
    while time.monotonic() < end:
        pass
    return {}


def do_sleep(event, context):
    time.sleep(event["ms"] / 1000)
    return {}


def do_answer_never(event, context):
    while True:
        signal.pause()


def do_answer_twice(event, context):
    body = b'{"ok": true, "answer": 1}'
    host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
    head = (
        f"POST /2018-06-01/runtime/invocation/{context.aws_request_id}/response HTTP/1.1\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        connection.recv(4096)
    return {"answer": 2}


def do_fail(event, context):
    error = type(event["type"], (Exception,), {})
    raise error(event["message"])


def do_exit(event, context):
    os._exit(event["code"])


def do_crash(event, context):
    os.abort()


def do_read_path(event, context):
    with open(event["path"], "rb") as file:
        return {"text": file.read().decode("utf-8", "replace")}


def do_write_path(event, context):
    with open(event["path"], "w") as file:
        file.write(event["text"])
    return {}


def do_fill_tmp(event, context):
    block = bytes(1 << 20)
    try:
        with open("/tmp/fill", "wb", buffering=0) as file:
            for _ in range(event["mib"]):
                if file.write(block) < len(block):
                    raise OSError("no room for a whole block")
    finally:
        os.unlink("/tmp/fill")
    return {}


def do_find_in_proc(event, context):
    needle = event["needle"].encode()
    # The platform sets the environment after the start, so the kernel's copy does not show it.
    found = any(needle in value.encode() for value in os.environ.values())
    for process in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{process}/{name}", "rb") as file:
                    found = found or needle in file.read()
            except OSError:
                pass
    return {"found": found}


def do_open_socket(event, context):
    host, port = event["address"].rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=5).close()
    return {}


def do_ptrace(event, context):
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    try:
        call(libc.ptrace, PTRACE_ATTACH, child, None, None)
        os.waitpid(child, 0)
        call(libc.ptrace, PTRACE_DETACH, child, None, None)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {}


def do_mount(event, context):
    folder = "/tmp/mounted"
    os.mkdir(folder)
    try:
        call(libc.mount, b"tmpfs", folder.encode(), b"tmpfs", 0, None)
        call(libc.umount, folder.encode())
    finally:
        os.rmdir(folder)
    return {}


def do_fork_bomb(event, context):
    children = []
    error = None
    try:
        for _ in range(event["processes"]):
            child = os.fork()
            if child == 0:
                try:
                    while True:
                        signal.pause()
                finally:
                    os._exit(0)
            children.append(child)
    except OSError as failure:
        error = failure
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    answer = {"started": len(children)}
    return answer if error is None else {**answer, "ok": False, "error": str(error)}


def perform(event, context):
    verb = globals().get("do_" + event["do"])
    if verb is None:
        return {"ok": False, "error": "unsupported"}
    try:
        return {"ok": True, **verb(event, context)}
    except OSError as error:
        return {"ok": False, "error": str(error)}


def handler(event, context):
    global count
    count += 1
    if event["do"] == "output_bytes":
        return "x" * (event["bytes"] - 2)
    return perform(event, context)


def initialise():
    how = os.environ.get("PROBER_INIT", "")
    if how == "exit":
        os._exit(7)
    if how == "crash":
        os.abort()
    if how.startswith("sleep:"):
        time.sleep(int(how[6:]) / 1000)


if __name__ == "__main__":
    # Outside of any sandbox, as a control: the event is the argument.
    print(json.dumps(perform(json.loads(sys.argv[1]), None)))
else:
    initialise()
