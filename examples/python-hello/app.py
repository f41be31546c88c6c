"""Greets by name and counts: the interpreter stays warm between invocations."""

served = 0


def handler(event, context):
    global served
    served += 1
    return {"message": f"hello, {event.get('name', 'world')}", "served": served}
