"""Sends every operation of the service's model to the node; each must be known to it.

The list is botocore's own. Parameters are the least that the model lets pass; what comes of them does not matter here,
but that it is an answer of the operation does: `wire.py` sees to its shape.
"""
from botocore.exceptions import ClientError, EventStreamError

import wire

EXPECTED_MIN = 91
# Values that a path needs to be one.
TEXTS = {
    "FunctionName": "nobody", "Resource": "arn:aws:lambda:us-east-1:123456789012:function:nobody",
    "ResourceArn": "arn:aws:lambda:us-east-1:123456789012:function:nobody",
}


def least(shape, name=""):
    kind = shape.type_name
    if kind == "structure":
        return {name: least(shape.members[name], name) for name in shape.required_members}
    if kind == "list":
        return [least(shape.member)] if shape.metadata.get("min", 1) else []
    if kind == "map":
        return {"key": least(shape.value)}
    if kind == "string":
        return TEXTS.get(name) or (shape.enum[0] if shape.enum else "x" * max(1, shape.metadata.get("min", 1)))
    if kind in ("integer", "long"):
        return shape.metadata.get("min", 1)
    return {"boolean": False, "blob": b"{}", "timestamp": 0, "double": 0.0, "float": 0.0}[kind]


def send(client, operation, method):
    arguments = least(operation.input_shape) if operation.input_shape else {}
    try:
        getattr(client, method)(**arguments)
    except ClientError as error:
        if isinstance(error, EventStreamError):
            return "answered"
        return error.response["Error"]["Code"]
    return "answered"


def main():
    client = wire.client(parameter_validation=False)
    model, methods = client.meta.service_model, client.meta.method_to_api_mapping
    found = {}
    for method, name in sorted(methods.items()):
        found[name] = send(client, model.operation_model(name), method)
    unknown = [name for name, said in found.items() if said == "UnknownOperationException"]
    assert not unknown, f"not known to the node: {unknown}"
    assert len(found) >= EXPECTED_MIN and set(found) == set(model.operation_names), len(found)
    # Control: what the model lacks is unknown.
    client.meta.events.register(
        "before-sign.lambda.GetAccountSettings",
        lambda request, **_: setattr(request, "url", request.url.replace("account-settings", "account-moods")))
    said = send(client, model.operation_model("GetAccountSettings"), "get_account_settings")
    assert said == "UnknownOperationException", said
    assert wire.CHECKER.operations == set(model.operation_names)
    wire.finish(expected_min=EXPECTED_MIN + 1)


main()
