"""A function whose event says what it should do."""
import os
import time


class Refused(Exception):
    pass


def handler(event, context):
    action = event.get("do", "echo") if isinstance(event, dict) else "echo"
    if action == "fail":
        raise Refused("as you wish")
    if action == "sleep":
        open("/tmp/began", "w").close()
        print("sleeping", flush=True)
        time.sleep(event["seconds"])
        return {"slept": event["seconds"]}
    if action == "spin":
        while True:
            pass
    if action == "fork":
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except OSError:
                pass
    if action == "hog":
        held = []
        while True:
            held.append(bytearray(1 << 20))
    if action == "type":
        return {"type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
    if action == "exit":
        os._exit(3)
    print("echoing")
    return {"echo": event, "version": context.function_version, "id": context.aws_request_id}
